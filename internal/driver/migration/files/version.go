package files

import (
	"hash/crc32"
	"strconv"
	"strings"
)

// number reads a version of digits as tools of 64 bit integers do.
func number(digits string) (order, bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return nil, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return nil, false
	}
	return order{uint64(n)}, true //nolint:gosec // digits have no sign
}

// dotted reads Flyway's version: numbers between dots. Zeros at the end do not
// tell versions apart.
func dotted(version string) (order, bool) {
	var o order
	for part := range strings.SplitSeq(version, ".") {
		n, ok := number(part)
		if !ok {
			return nil, false
		}
		o = append(o, n...)
	}
	for len(o) > 1 && o[len(o)-1] == 0 {
		o = o[:len(o)-1]
	}
	return o, true
}

// text is an order as its tool writes it, without zeros in front.
func (o order) text() string {
	parts := make([]string, len(o))
	for i, n := range o {
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ".")
}

// crc is Flyway's checksum of a file: CRC-32 (IEEE) over its lines without
// their ends and without a byte order mark, as a signed number.
func crc(text string) int32 {
	text = strings.TrimPrefix(text, "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	sum := crc32.NewIEEE()
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r", "\n"), "\n") {
		_, _ = sum.Write([]byte(line)) // a hash takes everything
	}
	return int32(sum.Sum32()) //nolint:gosec // the same bits, as Flyway keeps them
}
