// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/ranks.hpp>

#include <cstdlib>
#include <memory>

#include <cli/errors.hpp>

#ifdef GISTKV_CLI_MPI
#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>

#include <unistd.h>

#include <gistkv/mpi/process_group.hpp>
#endif

namespace gistkv::cli {

namespace {

/// What Open MPI's, MPICH's and Slurm's launchers tell the processes that they start.
const char* said_by_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (const char* text = std::getenv(name)) return text;
  }
  return nullptr;
}

std::unique_ptr<process_group>& joined() {
  static std::unique_ptr<process_group> group = std::make_unique<process_group>();
  return group;
}

#ifdef GISTKV_CLI_MPI

// A handler of signals can reach nothing else.
std::array<char, 1024> last_words{};
volatile std::sig_atomic_t n_last_words = 0;
int* told = nullptr;

/// `told` lies in memory that the ranks of one machine share.
bool tell() { return std::atomic_ref<int>(*told).exchange(1) == 0; }

extern "C" void speak_and_end(int number) {
  if (n_last_words > 0 && tell()) {
    [[maybe_unused]] const auto n =
        ::write(STDERR_FILENO, last_words.data(), static_cast<std::size_t>(n_last_words));
  }
  std::signal(number, SIG_DFL);
  std::raise(number);
}

class mpi_ranks final : public process_group {
 public:
  mpi_ranks() {
    if (n_ranks() == 1) return;
    mpi::check(MPI_Comm_split_type(group_->communicator(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                                   &neighbours_),
               "MPI_Comm_split_type");
    mpi::check(MPI_Comm_rank(neighbours_, &neighbour_), "MPI_Comm_rank");
    const MPI_Aint bytes = neighbour_ == 0 ? sizeof(int) : 0;
    mpi::check(
        MPI_Win_allocate_shared(bytes, sizeof(int), MPI_INFO_NULL, neighbours_, &told, &shared_),
        "MPI_Win_allocate_shared");
    MPI_Aint size = 0;
    int unit = 0;
    mpi::check(MPI_Win_shared_query(shared_, 0, &size, &unit, &told), "MPI_Win_shared_query");
    if (neighbour_ == 0) *told = 0;
    wait();
    struct sigaction action = {};
    action.sa_handler = speak_and_end;
    ::sigaction(SIGTERM, &action, nullptr);  // With this mpirun ends the others.
  }

  index_t rank() const override { return group_->rank(); }
  index_t n_ranks() const override { return group_->n_ranks(); }
  index_t neighbour() const override { return neighbour_; }
  void sum(std::span<float> values) override { group_->sum(values); }
  void sum(std::span<double> values) override { group_->sum(values); }
  void wait() override { group_->wait(); }

  void say_when_ended(const std::string& text) override {
    const std::string line = "gistkv: " + one_line(text) + "\n";
    n_last_words = 0;
    const std::size_t n = std::min(line.size(), last_words.size());
    std::memcpy(last_words.data(), line.data(), n);
    n_last_words = static_cast<std::sig_atomic_t>(n);
  }
  bool first_to_fail() override { return told == nullptr || tell(); }

  void leave(int status) override {
    // What one rank could not do, the others wait for in vain.
    if (status != 0 && n_ranks() > 1) MPI_Abort(MPI_COMM_WORLD, status);
    if (told != nullptr) {
      ::signal(SIGTERM, SIG_DFL);
      told = nullptr;
      MPI_Win_free(&shared_);
      MPI_Comm_free(&neighbours_);
    }
    group_.reset();
    MPI_Finalize();
  }

 private:
  std::unique_ptr<mpi::process_group> group_ = std::make_unique<mpi::process_group>();
  MPI_Comm neighbours_ = MPI_COMM_NULL;
  int neighbour_ = 0;
  MPI_Win shared_ = MPI_WIN_NULL;
};

#endif

}  // namespace

process_group& ranks() { return *joined(); }

void join_ranks() {
  const char* said = said_by_launcher();
  if (said == nullptr) return;
#ifdef GISTKV_CLI_MPI
  int level = 0;  // Of threads, only the one that is here sends messages.
  mpi::check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
  joined() = std::make_unique<mpi_ranks>();
#else
  // PMIx tells a rank only; srun, which starts such processes, tells their number too.
  if (said == std::getenv("PMIX_RANK")) said = std::getenv("SLURM_STEP_NUM_TASKS");
  if (said != nullptr && std::string_view(said) == "1") return;
  throw usage_error(
      "was started by mpirun, but built without MPI, want it built again where that is (Debian: "
      "libopenmpi-dev)");
#endif
}

void require_one_process(std::string_view what) {
  if (ranks().n_ranks() == 1) return;
  throw usage_error(std::string(what) + " runs in one process, but mpirun started " +
                    std::to_string(ranks().n_ranks()) +
                    "; train and compress --corpus share their work");
}

}  // namespace gistkv::cli
