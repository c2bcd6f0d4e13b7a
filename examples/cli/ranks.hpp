// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <gistkv/core/types.hpp>

/// The processes of a run. `mpirun -n 4 gistkv train ...` starts four, rank 0 to 3; without mpirun
/// there is rank 0 alone. Rank 0 writes files and speaks; of a failure, whoever meets it first.

namespace gistkv::cli {

/// Models train::ProcessGroup.
class process_group {
 public:
  virtual ~process_group() = default;

  virtual index_t rank() const { return 0; }
  virtual index_t n_ranks() const { return 1; }
  virtual index_t neighbour() const { return 0; }  ///< Rank among those of this machine.
  virtual void sum(std::span<float>) {}            ///< Over all ranks; same bits in each.
  virtual void sum(std::span<double>) {}           ///< Likewise.
  virtual void wait() {}                           ///< Until all ranks have called it.

  /// What is said when the job is ended from outside, as it is after a rank was lost.
  virtual void say_when_ended(const std::string&) {}
  /// Whether no other rank (of this machine) has told of a failure yet.
  virtual bool first_to_fail() { return true; }
  /// The end of a run: all ranks together, or, after a failure, this one with all others.
  virtual void leave(int /*status*/) {}
};

/// This process alone until `join_ranks`.
process_group& ranks();

/// Finds the others if mpirun started this process.
/// @throws usage_error if it did, but the program was built without MPI.
void join_ranks();

/// @throws usage_error naming `what` if there are several processes.
void require_one_process(std::string_view what);

}  // namespace gistkv::cli
