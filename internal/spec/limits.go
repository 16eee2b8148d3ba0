package spec

// Limits on what a specification may be. They bound time and memory on hostile
// input; a hundred times less is an ordinary large file.
const (
	maxFile    = 1 << 20 // bytes of one file
	maxDepth   = 64      // nesting, aliases expanded
	maxNodes   = 200_000 // YAML nodes, aliases expanded
	maxAliases = 1_000
	maxText    = 8 << 20 // bytes of all scalars, aliases expanded, inputs put in
	maxMarks   = 100_000 // characters , [ { ? (each can cost a kilobyte to parse)
	maxSteps   = 10_000
	maxNeeds   = 200_000 // edges between steps
	maxInput   = 64 << 10
	maxName    = 63
	maxLabel   = 128

	maxProblems = 1_000
	maxCompared = 100_000 // words compared for "did you mean"
	maxCycles   = 10      // cycles that are searched and printed
)
