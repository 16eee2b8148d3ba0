// Package spec reads backstay.yaml into a Spec: what a person wants of a
// release, checked as far as it can be without looking at the world.
//
// It owns the file format: the top-level keys, inputs, overlays, stages,
// parallel groups and the order that they mean. What a step of a kind may hold
// is the kind's: a Go struct with tags, got through the Kinds interface. The
// same structs give the decoding, the JSON Schema and the reference text, so
// the three cannot disagree.
//
// It promises: strictness (an unknown key, a duplicate, a null, a bad
// reference or a wrong type is a problem with file, line, column, path and a
// hint), all problems at once and sorted, no default for an input, values that
// can never change the structure they are put into, and bounded time and
// memory on any bytes. Parse is pure; Load only reads the named files.
//
// It is not a validator of the world: whether a file exists, a digest matches
// or a secret resolves is found out when the plan is built.
package spec
