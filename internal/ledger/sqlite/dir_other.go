//go:build !linux

package sqlite

// networkFS knows no file systems here: writing a ledger needs Linux anyway.
func networkFS(string) (string, error) { return "", nil }
