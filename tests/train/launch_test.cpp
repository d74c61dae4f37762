#include "train/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"
#include "train/mpirun_output.h"

namespace spectrain {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

Launch launch(const Variables& variables) {
  return launch_from([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional<std::string>(found->second);
  });
}

std::string refusal(const Variables& variables) {
  return message_of<RequestError>([&] { launch(variables); });
}

Variables operator+(Variables a, const Variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

Variables without(Variables a, const std::string& name) {
  a.erase(name);
  return a;
}

const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "5"},
                            {"OMPI_COMM_WORLD_SIZE", "8"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
const Variables kSlurm = {{"SLURM_PROCID", "6"},       {"SLURM_NTASKS", "7"},
                          {"SLURM_LOCALID", "2"},      {"SLURM_STEP_NODELIST", "gpu[03-05]"},
                          {"SLURM_STEP_ID", "2"},      {"SLURM_JOB_ID", "123456"},
                          {"SLURM_NODEID", "2"},       {"SLURM_STEP_TASKS_PER_NODE", "2(x2),3"},
                          {"SLURM_CPUS_PER_TASK", "6"}};
const Variables kPmi = {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MASTER_ADDR", "n1"}, {"MASTER_PORT", "4000"}};
const Variables kTorchrun = {{"RANK", "9"},
                             {"WORLD_SIZE", "16"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "8"},
                             {"MASTER_ADDR", "10.0.0.7"},
                             {"MASTER_PORT", "29500"}};

TEST(Launch, WithoutALauncherThereIsOneRank) {
  EXPECT_EQ(launch({}), Launch());
  EXPECT_TRUE(launch({}).is_first());
  EXPECT_EQ(launch({{"MASTER_ADDR", "x"}, {"MASTER_PORT", "1"}, {"SLURM_JOB_ID", "3"}}), Launch());
}

TEST(Launch, EveryLauncherSaysWhereARankStands) {
  EXPECT_EQ(launch(kOpenMpi), (Launch{Launcher::openmpi, 5, 8, 1, 4, "127.0.0.1", 0, 0}));
  EXPECT_EQ(launch(kSlurm),
            (Launch{Launcher::slurm, 6, 7, 2, 3, "gpu03", 20000 + (31 * 123456 + 2) % 10000, 6}));
  EXPECT_EQ(launch(kPmi), (Launch{Launcher::pmi, 1, 3, 0, 1, "n1", 4000, 0}));
  EXPECT_EQ(launch(kTorchrun), (Launch{Launcher::torchrun, 9, 16, 1, 8, "10.0.0.7", 29500, 0}));
  EXPECT_FALSE(launch(kTorchrun).is_first());
}

TEST(Launch, TheOrderWhenSeveralSetsAreThere) {
  const Variables by_hand = without(without(kTorchrun, "LOCAL_RANK"), "LOCAL_WORLD_SIZE");
  EXPECT_EQ(launch(kPmi + by_hand).launcher, Launcher::pmi);
  EXPECT_EQ(launch(kSlurm + kPmi + by_hand).launcher, Launcher::slurm);
  EXPECT_EQ(launch(kOpenMpi + kSlurm + kPmi + by_hand).launcher, Launcher::openmpi);
  EXPECT_EQ(launch(kOpenMpi + kSlurm + kPmi + kTorchrun).launcher, Launcher::torchrun);
  // Half a set of somebody else's does not matter.
  EXPECT_EQ(launch(kOpenMpi + Variables{{"RANK", "3"}}).launcher, Launcher::openmpi);
}

TEST(Launch, ASetOfOneRankSaysNothing) {
  const Variables pod = {{"RANK", "0"},
                         {"WORLD_SIZE", "1"},
                         {"LOCAL_RANK", "0"},
                         {"LOCAL_WORLD_SIZE", "1"},
                         {"MASTER_ADDR", "localhost"},
                         {"MASTER_PORT", "1"}};
  EXPECT_EQ(launch(pod), Launch());
  EXPECT_EQ(launch(pod + kOpenMpi).launcher, Launcher::openmpi);
  EXPECT_EQ(launch({{"RANK", "0"}, {"WORLD_SIZE", "1"}}), Launch());
  EXPECT_EQ(launch({{"PMI_RANK", "0"}, {"PMI_SIZE", "1"}}), Launch());
  EXPECT_EQ(launch(kSlurm + Variables{{"SLURM_NTASKS", "1"}}), Launch());
  EXPECT_EQ(launch({{"PMIX_RANK", "0"}, {"SLURM_NTASKS", "1"}}), Launch());
  EXPECT_EQ(launch({{"PMIX_RANK", "0"},
                    {"OMPI_COMM_WORLD_RANK", "0"},
                    {"OMPI_COMM_WORLD_SIZE", "1"},
                    {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                    {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}),
            Launch());
}

TEST(Launch, ABatchScriptOutsideSrunIsNotARank) {
  EXPECT_EQ(launch(without(kSlurm, "SLURM_STEP_ID")), Launch());
}

TEST(Launch, WhereSlurmRanksMeetCanBeSaid) {
  const Launch l = launch(kSlurm + Variables{{"MASTER_ADDR", "ib0"}, {"MASTER_PORT", "777"}});
  EXPECT_EQ(l.address, "ib0");
  EXPECT_EQ(l.port, 777);
  // Large job numbers stay in the range of ports.
  const int port = launch(kSlurm + Variables{{"SLURM_JOB_ID", "2147483647"}}).port;
  EXPECT_TRUE(port >= 20000 && port < 30000) << port;
}

TEST(Launch, HydraSaysWhetherAllRanksAreHere) {
  const Variables local = {{"PMI_RANK", "1"},
                           {"PMI_SIZE", "2"},
                           {"MPI_LOCALRANKID", "1"},
                           {"MPI_LOCALNRANKS", "2"},
                           {"MASTER_PORT", "9"}};
  EXPECT_EQ(launch(local), (Launch{Launcher::pmi, 1, 2, 1, 2, "127.0.0.1", 9, 0}));
  EXPECT_THAT(refusal(without(local, "MASTER_PORT")), HasSubstr("MASTER_PORT"));
  EXPECT_THAT(refusal(without(kPmi, "MASTER_ADDR")), HasSubstr("MASTER_ADDR"));
  EXPECT_EQ(launch({{"PMIX_RANK", "1"}, {"PMI_SIZE", "3"}, {"MASTER_ADDR", "n"}, {"MASTER_PORT", "1"}}).rank,
            1);
}

TEST(Launch, RankAndWorldSizeByHand) {
  const Variables v = {
      {"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "5"}};
  EXPECT_EQ(launch(v), (Launch{Launcher::torchrun, 2, 3, 2, 3, "127.0.0.1", 5, 0}));
  EXPECT_EQ(launch(v + Variables{{"MASTER_ADDR", "host-a"}}).local_ranks, 1);
}

TEST(Launch, TorchrunsOwnStoreKeepsItsPort) {
  const Variables store = {{"TORCHELASTIC_USE_AGENT_STORE", "True"}};
  EXPECT_EQ(launch(kTorchrun + store).port, 29501);
  EXPECT_EQ(launch(kTorchrun + store + Variables{{"MASTER_PORT", "65535"}}).port, 65534);
  EXPECT_EQ(launch(kTorchrun + Variables{{"TORCHELASTIC_USE_AGENT_STORE", "False"}}).port, 29500);
}

TEST(Launch, WhatDoesNotFitIsRefusedByName) {
  EXPECT_THAT(refusal({{"RANK", "1"}}), AllOf(HasSubstr("RANK is set"), HasSubstr("WORLD_SIZE is not")));
  EXPECT_THAT(refusal({{"WORLD_SIZE", "2"}}),
              AllOf(HasSubstr("WORLD_SIZE is set"), HasSubstr("RANK is not")));
  EXPECT_THAT(refusal({{"RANK", "1"}, {"WORLD_SIZE", ""}}), HasSubstr("WORLD_SIZE is not"));
  EXPECT_THAT(refusal({{"RANK", "1"}, {"WORLD_SIZE", "2"}}), HasSubstr("MASTER_ADDR is not"));
  EXPECT_THAT(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK is 2, but WORLD_SIZE is 2"));
  EXPECT_THAT(refusal({{"RANK", "two"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK is \"two\""));
  EXPECT_THAT(refusal({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK is \"-1\""));
  EXPECT_THAT(refusal({{"RANK", "1x"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK is \"1x\""));
  EXPECT_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), HasSubstr("WORLD_SIZE"));
  EXPECT_THAT(refusal(kTorchrun + Variables{{"MASTER_PORT", "99999"}}),
              HasSubstr("MASTER_PORT is \"99999\""));
  EXPECT_THAT(refusal(without(kTorchrun, "LOCAL_WORLD_SIZE")), HasSubstr("LOCAL_WORLD_SIZE is not"));
  EXPECT_THAT(refusal(kTorchrun + Variables{{"LOCAL_WORLD_SIZE", "17"}}),
              HasSubstr("LOCAL_WORLD_SIZE is 17"));
  EXPECT_THAT(refusal({{"OMPI_COMM_WORLD_RANK", "1"}}), HasSubstr("OMPI_COMM_WORLD_SIZE is not"));
  EXPECT_THAT(refusal(without(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_RANK")), HasSubstr("_LOCAL_RANK is not"));
  EXPECT_THAT(refusal(kOpenMpi + Variables{{"OMPI_COMM_WORLD_LOCAL_RANK", "4"}}),
              HasSubstr("LOCAL_SIZE is 4"));
  EXPECT_THAT(refusal(without(kSlurm, "SLURM_PROCID")), HasSubstr("SLURM_PROCID is not"));
  EXPECT_THAT(refusal(without(kSlurm, "SLURM_STEP_NODELIST")), HasSubstr("MASTER_ADDR"));
  EXPECT_THAT(refusal({{"PMI_SIZE", "4"}}), HasSubstr("PMI_RANK is not"));
  EXPECT_THAT(refusal({{"PMIX_RANK", "0"}}),
              AllOf(HasSubstr("PMIX_RANK is set"), HasSubstr("PMI_SIZE is not")));
}

TEST(Launch, FirstHostOfASlurmList) {
  EXPECT_EQ(first_host("node7"), "node7");
  EXPECT_EQ(first_host("a,b"), "a");
  EXPECT_EQ(first_host("node[03-05,09],x1"), "node03");
  EXPECT_EQ(first_host("node[12,14-15]"), "node12");
  EXPECT_EQ(first_host("rack[1-2]n[04-07,09]-ib,x1"), "rack1n04-ib");
}

TEST(ThreadsShare, EachRankGetsItsPartOfTheCores) {
  const auto local = [](int ranks) { return Launch{Launcher::openmpi, 0, ranks, 0, ranks, "", 0, 0}; };
  EXPECT_EQ(threads_share(0, Launch(), 8, 8), 8);
  EXPECT_EQ(threads_share(0, local(2), 2, 2), 1);
  EXPECT_EQ(threads_share(0, local(3), 8, 8), 2);
  EXPECT_EQ(threads_share(0, local(5), 2, 2), 1);     // at least one
  EXPECT_EQ(threads_share(7, local(2), 2, 2), 7);     // as configured
  EXPECT_EQ(threads_share(0, local(2), 1, 2), 1);     // mpirun bound each rank to a core,
  EXPECT_EQ(threads_share(0, local(4), 32, 64), 16);  // or to a socket that two share
  EXPECT_EQ(threads_share(0, local(2), 16, 8), 8);    // a launcher that may use less than its ranks
  Launch slurm = local(4);
  slurm.cores = 6;
  EXPECT_EQ(threads_share(0, slurm, 6, 6), 6);
  EXPECT_EQ(threads_share(0, slurm, 64, 64), 6);
  EXPECT_EQ(threads_share(0, slurm, 4, 64), 4);
  EXPECT_GE(threads_share(0, Launch()), 1);
  EXPECT_EQ(threads_share(0, local(1000)), 1);
}

TEST(MakeCollectives, OneRankNeedsNobody) {
  const auto collectives = make_collectives(Launch(), 1);
  EXPECT_EQ(collectives->name(), "single");
  EXPECT_EQ(collectives->ranks(), 1);
}

// ---- what mpirun adds to standard error

const std::string kDashes = std::string(74, '-') + "\n";
const std::string kKilled =
    kDashes +
    "mpirun noticed that process rank 1 with PID 4711 on node host exited on signal 9 "
    "(Killed).\n" +
    kDashes;
const std::string kExited =
    kDashes +
    "Primary job  terminated normally, but 1 process returned\n"
    "a non-zero exit code. Per user-direction, the job has been aborted.\n" +
    kDashes + kDashes +
    "mpirun detected that one or more processes exited with non-zero status, thus causing\n"
    "the job to be terminated. The first process to do so was:\n\n"
    "  Process name: [[31337,1],3]\n"
    "  Exit code:    5\n" +
    kDashes;

TEST(MpirunOutput, LeavesOutThatARankEndedAndKeepsHow) {
  MpirunOutput killed;
  EXPECT_EQ(killed.take(kKilled) + killed.finish(), "");
  ASSERT_TRUE(killed.first_end());
  EXPECT_EQ(killed.first_end()->rank, 1);
  EXPECT_EQ(killed.first_end()->signal, "signal 9 (Killed)");
  EXPECT_FALSE(killed.reported());

  MpirunOutput exited;
  std::string out;
  for (const char c : kExited) out += exited.take({&c, 1});  // in whatever pieces it comes
  EXPECT_EQ(out + exited.finish(), "");
  ASSERT_TRUE(exited.first_end());
  EXPECT_EQ(exited.first_end()->rank, 3);
  EXPECT_EQ(exited.first_end()->exit_code, 5);
}

TEST(MpirunOutput, KnowsItsOtherBoxes) {
  MpirunOutput improper;
  EXPECT_EQ(
      improper.take(kDashes +
                    "mpirun has exited due to process rank 2 with PID 0 on\nnode h exiting improperly.\n" +
                    kDashes + "mpirun: Forwarding signal 10 to job\n"),
      "");
  ASSERT_TRUE(improper.first_end());
  EXPECT_EQ(improper.first_end()->rank, 2);
  MpirunOutput abort;
  EXPECT_EQ(
      abort.take(kDashes + "MPI_ABORT was invoked on rank 4 in communicator MPI_COMM_WORLD\n" + kDashes), "");
  ASSERT_TRUE(abort.first_end());
  EXPECT_EQ(abort.first_end()->rank, 4);
}

TEST(MpirunOutput, PassesEverythingElse) {
  MpirunOutput output;
  const std::string box = kDashes + "There are not enough slots available\n" + kDashes;
  EXPECT_EQ(output.take("a warning\n" + box + "no line end"), "a warning\n" + box);
  EXPECT_EQ(output.finish(), "no line end\n");

  MpirunOutput ours;
  const std::string sentence = "spectrain: rank 1 ended during all_reduce of norms\n";
  const std::string within = kDashes + sentence + kKilled.substr(kDashes.size());
  EXPECT_EQ(ours.take(within + "[h:1] 1 more process has sent help message help-x.txt / y\n"), sentence);
  EXPECT_TRUE(ours.reported());

  MpirunOutput reads;  // of a rank that is gone, and of one that may not be read
  EXPECT_EQ(reads.take("[h:7] Read -1, expected 4096, errno = 3\n"), "");
  const std::string forbidden = "[h:7] Read -1, expected 4096, errno = 1\n";
  EXPECT_EQ(reads.take(forbidden), forbidden);

  MpirunOutput open;  // a box that never closes
  EXPECT_EQ(open.take(kDashes + "half\n"), "");
  EXPECT_EQ(open.finish(), kDashes + "half\n");
}

}  // namespace
}  // namespace spectrain
