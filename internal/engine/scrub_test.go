package engine

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"strings"
	"testing"
)

// fixedSecret resolves every reference to itself.
type fixedSecret string

func (f fixedSecret) Resolve(string) (string, error) { return string(f), nil }

// TestScrubberKnowsTheCoats: however a program prints a secret, what is left
// of the text holds no piece of the encoded secret.
func TestScrubberKnowsTheCoats(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"hunter2hunter2", `s3cr3t/ca+nary"wörd\=42&x`, "ends with a quote\"", "ünï😀code", "päss wört", "two\nlong lines of a key"} {
		s := newScrubber(fixedSecret(secret))
		if _, err := s.Resolve("secret:env/X"); err != nil {
			t.Fatal(err)
		}
		quoted, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		coats := map[string]string{
			"raw": secret, "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
			"lower query": lowerEscapes(url.QueryEscape(secret)),
			"json":        string(quoted), "html": html.EscapeString(secret),
			"hex": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
			"base64": base64.StdEncoding.EncodeToString([]byte(secret)), "base64url": base64.RawURLEncoding.EncodeToString([]byte(secret)),
		}
		for name, coat := range coats {
			if got := s.text("before " + coat + " after"); !strings.Contains(got, redacted) || strings.Contains(got, strings.Trim(coat, `"=`)) {
				t.Errorf("%q as %s: got %q", secret, name, got)
			}
		}
		for _, before := range []string{"", "u", "us", "use", "user"} {
			for _, after := range []string{"", "a", "ab", "abc"} {
				text := base64.StdEncoding.EncodeToString([]byte(before + ":" + secret + after))
				if got := s.text(text); !strings.Contains(got, redacted) || len(got)-len(redacted) > 14 {
					t.Errorf("%q in base64 after %q: got %q of %q", secret, before, got, text)
				}
			}
		}
	}
}

func TestScrubberLeavesOrdinaryText(t *testing.T) {
	t.Parallel()
	s := newScrubber(fixedSecret("abcd"))
	if _, err := s.Resolve("secret:env/X"); err != nil {
		t.Fatal(err)
	}
	const text = "the quick brown fox YWJj jumps over 616263 lazy dogs"
	if got := s.text(text); got != text {
		t.Errorf("got %q", got)
	}
}
