// Package control is the socket by which people steer a deployment that
// another user's process drives. The ledger's files are their owner's alone; an
// approver of another uid asks the process that has it open.
//
// It owns the wire format "backstay.control/v1" (Request, Answer: one JSON line
// each way, one of each per connection), the place of the socket below a data
// directory, Host and Ask.
//
// It promises: who asks is what the kernel reports of the peer (SO_PEERCRED),
// nothing in a request says it. One process listens at a time; the lock beside
// the socket says which, so that a socket that a dead process left is replaced
// and a live one never is, and the next process listens when the first one
// ends. The socket is removed at the end; requests that were being answered
// then are. Size, time, connections and requests of one uid are bounded, and a
// refused or malformed request reaches no handler. Nobody but root and the
// user of the process can put another socket in its place.
//
// It decides nothing: the handler does, and what was done is in the ledger. It
// is for one host; it is not an API for programs, which is package server.
package control
