package program_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/program"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
	"github.com/backstay-dev/backstay/internal/driver/metric/sourcetest"
	"github.com/backstay-dev/backstay/internal/proc"
)

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	if len(os.Args) == 3 && os.Args[1] == "answer" {
		os.Exit(answer(os.Args[2]))
	}
	os.Exit(m.Run())
}

// answer is a program that keeps what was served in a file, one batch of both
// sides a second.
func answer(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var all []signal.Signal
	if err := json.Unmarshal(data, &all); err != nil {
		fmt.Println(err)
		return 1
	}
	if text, asked := os.LookupEnv("BACKSTAY_ASK"); asked {
		var ask signal.Ask
		if err := json.Unmarshal([]byte(text), &ask); err != nil {
			fmt.Println(err)
			return 1
		}
		at := 0
		_ = json.Unmarshal(ask.Cursor, &at)
		b := signal.Batch{Signals: all[at:], Cursor: fmt.Appendf(nil, "%d", len(all)), Fresh: time.Unix(int64(len(all)), 0)}
		_ = json.NewEncoder(os.Stdout).Encode(b)
		return 0
	}
	switch os.Getenv("BACKSTAY_QUERY") {
	case "failed":
		good, bad := 0.0, 0.0
		for _, s := range all {
			if s.Canary {
				good, bad = good+float64(s.Good), bad+float64(s.Bad)
			}
		}
		fmt.Printf(`{"value": %v, "at": %q}`, bad/(good+bad), time.Now().Format(time.RFC3339Nano))
	case "plain":
		fmt.Println(" 0.5")
	case "nothing":
	case "nan":
		fmt.Println("NaN")
	case "null":
		fmt.Println(`{"value": null}`)
	case "text":
		fmt.Println("many")
	case "much":
		for range 5 {
			fmt.Print(strings.Repeat("9", 1<<20))
		}
	case "fails":
		return 7
	default:
		fmt.Println("nobody knows")
		return 2
	}
	return 0
}

// world keeps its file.
type world struct {
	path string
	all  []signal.Signal
}

func start(t *testing.T) sourcetest.World {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "served.json"), all: []signal.Signal{}}
	w.Settle(t)
	return w
}

func (w *world) Source() signal.Source {
	return &program.Source{Argv: []string{os.Args[0], "answer", w.path}, Dir: "/", Now: time.Now}
}

func (w *world) Ask(m signal.Metric) signal.Ask {
	return signal.Ask{Metric: m, Route: "shop", Canary: "green"}
}

func (w *world) Serve(_ *testing.T, side string, good, bad int) {
	start := time.Unix(int64(len(w.all)), 0)
	for _, canary := range []bool{false, true} {
		s := signal.Signal{Name: signal.Errors, Unit: "request", Stratum: "shop", Start: start, End: start.Add(time.Second), Canary: canary}
		if canary == (side == "green") {
			s.Good, s.Bad = uint64(good), uint64(bad)
		}
		w.all = append(w.all, s)
	}
}

func (w *world) Settle(t *testing.T) {
	t.Helper()
	data, err := json.Marshal(w.all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) Restart(*testing.T) bool { return false }

func (w *world) Break(t *testing.T) {
	t.Helper()
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
}

func (w *world) Questions() (known, unknown signal.Question) {
	return signal.Question{Query: "failed"}, signal.Question{Query: "weather"}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, start)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	w := start(t)
	for query, want := range map[string]string{
		"plain": "0.5", "nothing": "no data", "nan": "no data", "null": "no data", "weather": "no data",
		"text": "permanent", "fails": "transient", "much": "transient",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			r, err := w.Source().Read(t.Context(), signal.Question{Query: query})
			var none *signal.NoData
			got := fmt.Sprint(r.Value)
			switch {
			case errors.As(err, &none):
				got = "no data"
			case err != nil:
				got = string(backstay.ClassOf(err))
			}
			if got != want {
				t.Errorf("%s (%v), want %s", got, err, want)
			}
		})
	}
}

// A program that hangs is ended with the question.
func TestHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s := &program.Source{Argv: []string{"sleep", "100"}, Dir: "/", Now: time.Now}
	if r, err := s.Read(ctx, signal.Question{}); err == nil {
		t.Errorf("read %+v", r)
	}
}
