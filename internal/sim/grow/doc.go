// Package grow writes ledgers of any size, for measuring how reads and
// verification grow with them. It is a test so that the binary does not link it.
package grow
