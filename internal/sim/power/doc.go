// Package power cuts the power under the program as it ships. A child process
// deploys `file` steps with the real engine, ledger and SQLite driver while strace
// records every system call that changes a file of its world or of its state.
// From the record every legal image of the disk is built (package image),
// recovered with the real code, and judged: the world is as before or as wanted,
// never a third thing (I3), and its neighbours are untouched (I18).
//
// What it does not cover: files that the kernel maps (SQLite's -shm, which it
// rebuilds), more than one file or directory varying at once beyond the four
// corners that package image describes, and a second power cut during recovery.
package power
