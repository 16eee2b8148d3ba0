// Package proc starts processes and ends them surely. It owns the words run (a
// command that is watched to its end), detached process (one that outlives its
// parent: a service instance), leftover (a process that a command started and
// did not wait for), identity (pid, start time and boot: what a pid alone is
// not) and token (the marker that says for which deployment, step and epoch a
// process works).
//
// How a run is held together. Backstay executes itself once more as a
// supervisor (SupervisorMain), in its own session, and hands it the command
// through a pipe. The supervisor is a child subreaper (prctl(2)): whatever the
// command forks, re-sessions or double-forks stays the supervisor's descendant
// and is re-parented to it, so "wait4 says there are no children" is the
// kernel's proof that nothing of the run is left. When the run must end, the
// command's process group gets SIGTERM, then, after the grace time, every
// descendant is stopped (so that none can fork away from under the scan) and
// killed, until none is left. Where a cgroup v2 tree is writable the run also
// gets a cgroup of its own, which the kernel kills at once.
//
// How many a run may be. A run gets at most MaxTasks processes and threads at
// once, a fork beyond that fails with EAGAIN, where one of these is so: the
// version 2 cgroup that Backstay runs in is writable and hands the pids
// controller on to its children, or that controller has a version 1 tree in
// which Backstay may make a group. Elsewhere (most users that are not root, and
// services whose manager does not hand the controller on) nothing of ours
// bounds it: only what bounds Backstay itself does (the user's RLIMIT_NPROC,
// TasksMax of the unit). The run is ended whole in either case. Detached runs
// and detached processes are never bounded.
//
// When the process that asked for the run dies, in whatever way, the pipe to
// the supervisor closes and the supervisor kills the whole run at once. If the
// supervisor is killed too, its command dies with it (PR_SET_PDEATHSIG), and
// what that had forked is found by the marker in its environment (EndToken).
//
// Promises. A signal is sent to an identity, never to a bare pid: a process
// that reused the pid is never hit. A command gets exactly the environment it
// was given, a default PATH and the markers; never the caller's own. Nothing
// blocks for longer than the grace time plus a fixed bound, even if leftovers
// hold the output pipe. Everything here is safe for concurrent use.
//
// What escapes: after a SIGKILL of both Backstay and the supervisor, a process
// that had wiped its environment *and* was not the command's own process; work
// that the command asked some other daemon to do (systemd-run, at, docker);
// a process in uninterruptible sleep, which is reported instead. It is no
// container and no sandbox: a command with the caller's rights can stop the
// supervisor if it wants to.
//
// It runs on Linux only, and says nothing about what a command means.
package proc
