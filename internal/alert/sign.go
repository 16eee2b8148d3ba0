package alert

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// Headers of Standard Webhooks (https://www.standardwebhooks.com).
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"

	signatureVersion = "v1,"
	keyPrefix        = "whsec_"
	maxID            = 128
	maxSignatures    = 8
)

// minSecret is the shortest key or token: what is shorter can be guessed.
const minSecret = 24

// Secret is a key or a token, and the reference that it was resolved from, by which
// it is told apart in the ledger.
type Secret struct{ Ref, Value string }

// key is a secret as the bytes that it signs with.
type key struct {
	ref   string
	bytes []byte
}

// keysOf reads signing keys. A value that begins with whsec_ is base64, as Standard
// Webhooks writes them; any other one is taken as it is.
func keysOf(secrets []Secret) ([]key, error) {
	var keys []key
	for _, s := range secrets {
		k := key{s.Ref, []byte(s.Value)}
		if text, encoded := strings.CutPrefix(s.Value, keyPrefix); encoded {
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, weak(s.Ref, "begins with "+keyPrefix+", and what follows is not base64")
			}
			k.bytes = raw
		}
		if len(k.bytes) < minSecret {
			return nil, weak(s.Ref, fmt.Sprintf("has %d bytes, and at least %d are wanted", len(k.bytes), minSecret))
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func weak(ref, why string) error {
	return &backstay.RefusedError{What: "secret", Err: fmt.Errorf("%s %s", ref, why), Hint: "make one: openssl rand -hex 32"}
}

// errStranger is a request that nothing shows to come from a sender.
var errStranger = errors.New("it is not authenticated")

// signed checks the signature of a request over its ID, its timestamp and its body,
// and returns the reference of the key. Every key and every signature is tried, so
// that the time tells nothing. Versions other than v1 are passed over.
func signed(keys []key, h http.Header, body []byte) (ref string, err error) {
	id, stamp := h.Get(headerID), h.Get(headerTimestamp)
	if id == "" || stamp == "" || len(id) > maxID || strings.Contains(id, ".") {
		return "", errStranger
	}
	var given [][]byte
	for word := range strings.FieldsSeq(h.Get(headerSignature)) {
		text, v1 := strings.CutPrefix(word, signatureVersion)
		if raw, err := base64.StdEncoding.DecodeString(text); v1 && err == nil && len(given) < maxSignatures {
			given = append(given, raw)
		}
	}
	for _, k := range keys {
		want := sign(k.bytes, id, stamp, body)
		for _, g := range given {
			if hmac.Equal(want, g) {
				ref = k.ref
			}
		}
	}
	if ref == "" {
		return "", errStranger
	}
	return ref, nil
}

// sign is the signature over a message.
func sign(key []byte, id, stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// fresh says what is wrong with the time of a signed request; nil where it is now, or
// nearly.
func fresh(h http.Header, now time.Time) error {
	n, err := strconv.ParseInt(h.Get(headerTimestamp), 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return errors.New("its timestamp is no number of seconds since 1970")
	}
	switch age := now.Sub(time.Unix(n, 0)); {
	case age > window:
		return fmt.Errorf("it was signed %s ago; at most %s are allowed", age.Round(time.Second), window)
	case age < -window:
		return fmt.Errorf("it was signed %s from now: set the clocks", (-age).Round(time.Second))
	}
	return nil
}

// holds looks for the bearer token of a request among the tokens.
func holds(tokens []Secret, h http.Header) (ref string, err error) {
	brought, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	got := sha256.Sum256([]byte(brought))
	for _, t := range tokens {
		want := sha256.Sum256([]byte(t.Value))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok {
			ref = t.Ref
		}
	}
	if ref == "" {
		return "", errStranger
	}
	return ref, nil
}
