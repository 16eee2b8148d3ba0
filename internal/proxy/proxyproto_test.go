package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// v2 builds a version 2 header by the specification's text, not by our reader.
func v2(command, family byte, payload []byte) string {
	b := []byte{0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x20 | command, family}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	return string(append(b, payload...))
}

func TestReadHeader(t *testing.T) {
	t.Parallel()
	four := []byte{192, 0, 2, 7, 127, 0, 0, 1, 0x1F, 0x90, 0, 80}
	six := append(append(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("::1").AsSlice()...), 0x1F, 0x90, 0, 80)
	for _, tt := range []struct {
		name, in, want string
		bad            bool
	}{
		{"v1 four", "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n", "192.0.2.7:8080", false},
		{"v1 six", "PROXY TCP6 2001:db8::7 ::1 8080 80\r\n", "[2001:db8::7]:8080", false},
		{"v1 unknown", "PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n", "invalid AddrPort", false},
		{"v2 four", v2(1, 0x11, four), "192.0.2.7:8080", false},
		{"v2 six with more after it", v2(1, 0x21, append(six, 3, 0, 4, 1, 2, 3, 4)), "[2001:db8::7]:8080", false},
		{"v2 local", v2(0, 0, nil), "invalid AddrPort", false},
		{"v2 unix", v2(1, 0x31, make([]byte, 216)), "invalid AddrPort", false},
		{"v1 of the wrong family", "PROXY TCP4 2001:db8::7 ::1 8080 80\r\n", "", true},
		{"v1 port too large", "PROXY TCP4 192.0.2.7 127.0.0.1 65536 80\r\n", "", true},
		{"v1 port with a zero before it", "PROXY TCP4 192.0.2.7 127.0.0.1 080 80\r\n", "", true},
		{"v1 two blanks", "PROXY TCP4  192.0.2.7 127.0.0.1 8080 80\r\n", "", true},
		{"v1 without CR", "PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\n", "", true},
		{"v1 that does not end", "PROXY TCP4 " + strings.Repeat("1", 4000), "", true},
		{"v2 short", v2(1, 0x11, four[:8]), "", true},
		{"v2 cut", v2(1, 0x11, four)[:20], "", true},
		{"v2 of another version", strings.Replace(v2(1, 0x11, four), "\x21", "\x31", 1), "", true},
		{"v2 that announces 64 KiB", v2(1, 0x11, make([]byte, 65535)), "", true},
		{"none", "GET / HTTP/1.1\r\n\r\n", "", true},
		{"nothing", "", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := bufio.NewReaderSize(strings.NewReader(tt.in+"GET /"), 4<<10)
			got, err := readHeader(r)
			if (err != nil) != tt.bad || tt.bad && !errors.Is(err, errHeader) {
				t.Fatalf("got error %v, want one: %v", err, tt.bad)
			}
			if tt.bad {
				return
			}
			if got.String() != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "GET /" {
				t.Errorf("after the header stands %q", rest)
			}
		})
	}
}

func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\nGET /"))
	f.Add([]byte(v2(1, 0x11, []byte{192, 0, 2, 7, 127, 0, 0, 1, 0x1F, 0x90, 0, 80})))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 4<<10)
		from, err := readHeader(r)
		if err != nil {
			if from.IsValid() {
				t.Fatalf("an address beside an error: %v, %v", from, err)
			}
			return
		}
		rest, _ := io.ReadAll(r)
		if !bytes.HasSuffix(data, rest) || len(data)-len(rest) > 16+maxV2Payload {
			t.Fatalf("%d bytes were read of %d", len(data)-len(rest), len(data))
		}
	})
}
