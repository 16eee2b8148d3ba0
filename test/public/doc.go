// Package public verifies migrations that nobody here wrote: the up and down files of
// public projects, as they embed them in their Go modules. They are fetched for the
// test and kept nowhere.
//
// It is a module of its own, so that the program's does not know theirs.
package public
