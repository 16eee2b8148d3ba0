// Package sandbox runs this very binary in a private, copy-on-write view of
// this host: every file is there as it is, and whatever is written stays in the
// sandbox and goes away with it.
//
// It owns how the view is made (overlays over every real file system, a proc of
// its own, no devices but null and the like), what is cut off (processes,
// network but loopback, System V IPC, host name, mounting, devices, modules, the
// clock), and the list of what differs from the host at the end, which is made
// without the help of whoever wrote.
//
// Promises. Nothing that is done inside through the file system, a signal, a
// socket or System V IPC has an effect outside, as long as it does not attack the
// kernel. A file system that cannot be overlaid is not there inside, and Hidden
// says so. When the process that started the sandbox dies, all of it dies. What
// leads out is only the doors that the caller gives it: connections to one address
// inside, each carried to what the caller opens for it.
//
// It needs Linux, root and overlayfs; Available says whether that is so. It is
// for programs that may be wrong, not for hostile ones.
package sandbox
