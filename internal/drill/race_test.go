//go:build race

package drill

// raceDetector says that this binary looks for races and is slow.
const raceDetector = true
