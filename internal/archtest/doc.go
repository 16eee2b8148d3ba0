// Package archtest holds the architecture as a test: who may import whom, what
// only one package may do, and the shape that every package and file has.
//
// The table at the top of table_test.go is the truth; ARCHITECTURE.md shows the
// same table and fails the test when it differs. A package that the table does
// not know fails as well, so a new one is a decision and never an accident.
//
// The sources are parsed in process, whatever their build constraints. Nothing
// is type-checked: rules about methods go by name and number of arguments, and
// the linter (forbidigo, with types) is the second look.
package archtest
