// Package disk holds tests of what disks and clocks do to a deployment: a full
// disk under the ledger or under the targets, on the way forward and on the way
// back; a ledger that was damaged, cut, exchanged, or written by a newer
// version; a wall clock that jumps; and of how much memory large files and much
// output take. It exports nothing.
//
// A full disk is a small tmpfs, which needs root to mount. Real child processes
// deploy onto it; what they left is judged by a look at the files.
package disk
