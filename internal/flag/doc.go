// Package flag is Backstay's own flag store and the server that clients read
// it by.
//
// It owns the store (flags in the ledger's database, every change an entry in
// the same write), the feed (a process's copy of all flags, that follows the
// ledger), the durable copy of it, and the OFREP server with its change stream.
//
// Promises. A change names the version that it replaces; of two writers one is
// told that it came too late. What is served was durable before: in the ledger,
// and in the server's own copy. The server answers when the ledger is gone and
// after a restart without it, with the newest flags that it ever answered with.
// Definitions and their evaluation are flag/model's; deployments move flags by
// the step kind flag.
package flag
