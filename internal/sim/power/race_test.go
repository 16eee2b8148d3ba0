//go:build race

package power_test

// raced says that the race detector is on: starting a child takes a second then,
// so fewer are started.
const raced = true
