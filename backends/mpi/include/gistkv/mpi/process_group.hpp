// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

#include <mpi.h>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::mpi {

/// @throws backend_error with MPI's own text unless a call has succeeded.
inline void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw backend_error(std::string(call) + ": " +
                      std::string(text.data(), static_cast<std::size_t>(length)) + " (" +
                      std::to_string(code) + ")");
}

/// The processes of an MPI communicator, as train::ProcessGroup wants them. MPI is initialised and
/// finalised by whoever owns it; the group has a communicator of its own, so that its messages meet
/// no others.
class process_group {
 public:
  /// Collective. @throws backend_error, as all calls do.
  explicit process_group(MPI_Comm all = MPI_COMM_WORLD) {
    check(MPI_Comm_dup(all, &comm_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &n_ranks_), "MPI_Comm_size");
  }
  ~process_group() { MPI_Comm_free(&comm_); }
  process_group(const process_group&) = delete;
  process_group& operator=(const process_group&) = delete;

  MPI_Comm communicator() const { return comm_; }
  index_t rank() const { return rank_; }
  index_t n_ranks() const { return n_ranks_; }

  /// values <- their sum over all processes. The standard promises the same bits to each of them
  /// (MPI 3.1, 5.9.6).
  void sum(std::span<float> values) { sum(values, MPI_FLOAT); }
  void sum(std::span<double> values) { sum(values, MPI_DOUBLE); }

  /// Returns when all processes have called it.
  void wait() { check(MPI_Barrier(comm_), "MPI_Barrier"); }

 private:
  template <class T>
  void sum(std::span<T> values, MPI_Datatype type) {
    constexpr std::size_t most = std::numeric_limits<int>::max();  // MPI counts in int.
    while (!values.empty()) {
      const std::size_t n = std::min(values.size(), most);
      check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(n), type, MPI_SUM, comm_),
            "MPI_Allreduce");
      values = values.subspan(n);
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int n_ranks_ = 1;
};

}  // namespace gistkv::mpi
