package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"
)

// cookieVersion begins every cookie value, so that the format can change.
const cookieVersion = "1"

// maxCookie bounds what is looked at: names have at most 63 bytes.
const maxCookie = 256

// pass is what an affinity cookie says: who the visitor is (a random number,
// for the statistics and for being mapped anew), which side they are on, and
// until when that holds.
type pass struct {
	side  string
	user  uint64
	until time.Time // whole seconds
}

// passes signs and reads the cookies of all routes. A cookie is bound to its route.
type passes struct{ key []byte }

const passHead = 16 // user and until

// write makes the cookie value: version, then base64url of user, until, side and
// the first 16 bytes of their HMAC-SHA256.
func (p passes) write(route string, v pass) string {
	body := binary.BigEndian.AppendUint64(nil, v.user)
	body = binary.BigEndian.AppendUint64(body, uint64(v.until.Unix())) //nolint:gosec // after 1970
	body = append(body, v.side...)
	body = append(body, p.sum(route, body)...)
	return cookieVersion + "." + base64.RawURLEncoding.EncodeToString(body)
}

// read reads a cookie value. What is not signed by this proxy for this route,
// or is over, is no pass; the visitor is mapped anew, and there is no error.
func (p passes) read(route, value string, now time.Time) (pass, bool) {
	encoded, ok := strings.CutPrefix(value, cookieVersion+".")
	if !ok || len(value) > maxCookie {
		return pass{}, false
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(body) < passHead+sha256.Size/2 {
		return pass{}, false
	}
	body, sum := body[:len(body)-sha256.Size/2], body[len(body)-sha256.Size/2:]
	if subtle.ConstantTimeCompare(sum, p.sum(route, body)) != 1 {
		return pass{}, false
	}
	until := binary.BigEndian.Uint64(body[8:16])
	v := pass{user: binary.BigEndian.Uint64(body), until: time.Unix(int64(until), 0), side: string(body[passHead:])} //nolint:gosec // signed by write
	return v, now.Before(v.until)
}

func (p passes) sum(route string, body []byte) []byte {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(route))
	mac.Write([]byte{0})
	mac.Write(body)
	return mac.Sum(nil)[:sha256.Size/2]
}
