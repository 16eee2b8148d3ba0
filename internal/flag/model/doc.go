// Package model is what a feature flag is: its definition in LaunchDarkly's
// JSON, what people say about it, the moves that a deployment makes with it,
// and a set of flags that can be evaluated.
//
// It owns the definition, the meta data, the move and the set. It promises:
// what is malformed is refused with its place in the text; what it does not
// know of an imported definition is kept; a move changes nothing but what it
// says, never a salt, and raising a share moves nobody out. Evaluation is
// LaunchDarkly's own open library, with its bucketing. It reads and writes
// nothing, and knows no store.
package model
