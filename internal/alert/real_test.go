package alert

import (
	"fmt"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/parts"
)

// A real Alertmanager brings its token; what fires and what is resolved comes over.
func TestRealAlertmanager(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	d := newDesk(t)
	address := serve(t, Server{Handler: d.Handler})
	am := parts.StartAlertmanager(t, "http://"+address+"/v1/alerts/alertmanager", token)
	began := time.Now().Add(-time.Second).UTC().Truncate(time.Millisecond)
	post := func(ends string) {
		am.Post(t, fmt.Sprintf(`[{"labels":{"alertname":"HighErrorRate","backstay_release":"shop","severity":"page"},"annotations":{"summary":"5 %% fail"},
			"startsAt":%q%s,"generatorURL":"http://prometheus:9090/graph?g0.expr=up"}]`, began.Format(time.RFC3339Nano), ends))
	}
	wait := func(firing bool) Report {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			d.mu.Lock()
			for _, r := range d.got {
				if r.Firing == firing {
					d.mu.Unlock()
					return r
				}
			}
			d.mu.Unlock()
			<-time.After(10 * time.Millisecond)
		}
		t.Fatalf("no report with firing %t came", firing)
		return Report{}
	}
	post("")
	r := wait(true)
	if r.Release != "shop" || !r.Since.Equal(began) || r.Alarm.Source != "alertmanager" || r.Alarm.Key != "secret:env/TOKEN" || r.Alarm.Alerts[0].Summary != "5 % fail" ||
		r.Alarm.Alerts[0].Labels["severity"] != "page" || r.Alarm.Alerts[0].Link != "http://prometheus:9090/graph?g0.expr=up" {
		t.Errorf("report %+v", r)
	}
	post(fmt.Sprintf(`,"endsAt":%q`, time.Now().UTC().Format(time.RFC3339Nano)))
	if r := wait(false); !r.Since.Equal(began) || r.Release != "shop" {
		t.Errorf("resolved %+v", r)
	}
}
