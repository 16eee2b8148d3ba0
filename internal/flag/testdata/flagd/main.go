// flagd's evaluator core behind the HTTP of net/http, as a peer for benchmarks:
// the same flags (10 % for a boolean one) as ours has.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/open-feature/flagd/core/pkg/evaluator"
	"github.com/open-feature/flagd/core/pkg/logger"
	so "github.com/open-feature/flagd/core/pkg/service/ofrep"
	"github.com/open-feature/flagd/core/pkg/store"
	"github.com/open-feature/flagd/core/pkg/sync"
	"go.uber.org/zap"
)

const flags = 100

func main() {
	log := logger.NewLogger(zap.NewNop(), false)
	st, err := store.NewStore(log, []string{"bench"})
	check(err)
	ev := evaluator.NewJSON(log, st)
	var all []string
	for i := range flags {
		all = append(all, fmt.Sprintf(`"flag-%d":{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":"off","targeting":{"fractional":[{"var":"targetingKey"},["on",10],["off",90]]}}`, i))
	}
	check(ev.SetState(sync.DataSync{FlagData: `{"flags":{` + strings.Join(all, ",") + `}}`, Source: "bench"}))
	context := func(r *http.Request) map[string]any {
		var q struct {
			Context map[string]any `json:"context"`
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		return q.Context
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ofrep/v1/evaluate/flags/{key}", func(w http.ResponseWriter, r *http.Request) {
		v := ev.ResolveAsAnyValue(r.Context(), "bench", r.PathValue("key"), context(r))
		w.Header().Set("Content-Type", "application/json")
		if v.Error != nil {
			code, body := so.EvaluationErrorResponseFrom(v)
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(body)
			return
		}
		_ = json.NewEncoder(w).Encode(so.SuccessResponseFrom(v))
	})
	mux.HandleFunc("POST /ofrep/v1/evaluate/flags", func(w http.ResponseWriter, r *http.Request) {
		values, _, err := ev.ResolveAllValues(r.Context(), "bench", context(r))
		check(err)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(so.BulkEvaluationResponseFrom(values, nil))
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println("http://" + l.Addr().String())
	check(http.Serve(l, mux))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
