// Package report tells what happened in one deployment, from its ledger entries
// alone: what changed, what failed and why, how long it took to notice and to
// undo, who agreed, and what is left to do.
//
// It owns Report (a versioned document), its four renderings (text, JSON,
// Markdown, one self-contained HTML page), the rendering of part values and
// residue for people. It promises: what is not in the ledger is not in a report,
// and what cannot be told is left out, never guessed; no text of an entry can
// forge a line, drive a terminal or become markup; the same entries give the
// same bytes. It decides nothing and writes nothing.
package report
