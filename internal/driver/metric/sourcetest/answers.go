package sourcetest

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// Answer is what a service's server says, and what a source makes of it: the class of
// an error, or "no data".
type Answer struct {
	Status int
	Body   string
	Want   string
}

// Answers asks a question of servers that answer as the cases say. What goes wrong is
// told apart: what stays wrong, what may pass, what says nothing. No error shows a
// key. A redirect leads to elsewhere, which would answer.
func Answers(t *testing.T, cases map[string]Answer, elsewhere string, at func(url string) signal.Source, q signal.Question, keys ...string) {
	t.Helper()
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
				if tt.Status == http.StatusFound {
					out.Header().Set("Location", elsewhere)
				}
				out.WriteHeader(tt.Status)
				fmt.Fprint(out, tt.Body)
			}))
			t.Cleanup(server.Close)
			r, err := at(server.URL).Read(t.Context(), q)
			var none *signal.NoData
			got := fmt.Sprint(r.Value)
			switch {
			case errors.As(err, &none):
				got = "no data"
			case err != nil:
				got = string(backstay.ClassOf(err))
			}
			if got != tt.Want {
				t.Errorf("%s (%v), want %s", got, err, tt.Want)
			}
			for _, key := range keys {
				if err != nil && strings.Contains(err.Error(), key) {
					t.Errorf("the error shows a key: %v", err)
				}
			}
		})
	}
}
