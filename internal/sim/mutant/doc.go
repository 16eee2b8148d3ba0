// Package mutant tests the tests: it seeds bugs into the engine and the ledger,
// one at a time, and demands that some layer of the tests catches each. It holds
// a table of text replacements, which the go command's overlay applies while it
// builds a test binary; the product has no switch for any of it.
package mutant
