package report

import (
	"bytes"
	"fmt"
	"io"
	"unicode"
)

// WriteJSON writes the report as indented JSON. Characters that could drive a
// terminal or turn text around are escaped, so that it can be looked at.
func (r *Report) WriteJSON(w io.Writer) error {
	return writeJSON(r, w)
}

// writeShown writes JSON with what could drive a terminal escaped.
func writeShown(data []byte, w io.Writer) error {
	var out bytes.Buffer
	for _, c := range string(data) {
		switch {
		case c == '\n' || unicode.IsPrint(c):
			out.WriteRune(c)
		case c > 0xffff:
			c -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(c>>10), 0xdc00+(c&0x3ff))
		default:
			// Outside of strings JSON has printable ASCII only, so this is in one.
			fmt.Fprintf(&out, `\u%04x`, c)
		}
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}
