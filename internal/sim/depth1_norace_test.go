//go:build !race

package sim

// raceDetector says that this binary looks for races and is slow.
const raceDetector = false
