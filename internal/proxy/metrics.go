package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// bounds of the latency histogram in /metrics. It is made of the fine buckets:
// one that lies across a bound counts above it.
func bounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{ms, 2 * ms, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 2500 * ms, 5 * time.Second, 10 * time.Second, 30 * time.Second}
}

// page builds the Prometheus text format, version 0.0.4.
type page struct{ strings.Builder }

func (m *page) family(name, kind, help string) {
	fmt.Fprintf(m, "# HELP backstay_proxy_%[1]s %[3]s\n# TYPE backstay_proxy_%[1]s %[2]s\n", name, kind, help)
}

// value writes one sample. Names of routes and sides need no escaping (wire.IsName);
// URLs of instances hold no quotes.
func (m *page) value(name string, labels []string, v any) {
	pairs := make([]string, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	set := ""
	if len(pairs) > 0 {
		set = "{" + strings.Join(pairs, ",") + "}"
	}
	fmt.Fprintf(m, "backstay_proxy_%s%s %v\n", name, set, v)
}

func (p *Proxy) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(p.metrics())) // the reader's loss
}

func (p *Proxy) metrics() string {
	status := p.Status()
	m := &page{}
	m.family("info", "gauge", "The boot of this process.")
	m.value("info", []string{"boot", p.boot}, 1)
	m.family("revision", "gauge", "The number of durable changes to routes.")
	m.value("revision", nil, status.Revision)
	m.family("requests_in_flight", "gauge", "Requests in flight, all routes.")
	m.value("requests_in_flight", nil, p.requests.Load())
	m.family("refused_total", "counter", "Requests answered without a side: unknown host or path, too large.")
	m.value("refused_total", nil, p.refused.Load())
	m.family("retries_total", "counter", "Requests sent again to another instance.")
	m.value("retries_total", nil, p.retried.Load())
	p.gauges(m, status)
	p.counters(m)
	return m.String()
}

func (p *Proxy) gauges(m *page, status *wire.Status) {
	sides := func(name, help string, of func(wire.SideStatus) any) {
		m.family(name, "gauge", help)
		for _, r := range status.Routes {
			for _, s := range r.Sides {
				m.value(name, []string{"route", r.Route.Name, "side", s.Name}, of(s))
			}
		}
	}
	sides("weight", "The wanted share of a side, in percent.", func(s wire.SideStatus) any { return s.Weight })
	sides("share", "The share that a side gets, in percent.", func(s wire.SideStatus) any { return s.Share })
	sides("ready_capacity", "What the ready instances of a side can carry, in percent.", func(s wire.SideStatus) any { return s.ReadyCapacity })
	sides("active", "Requests in flight to a side.", func(s wire.SideStatus) any { return s.Active })
	sides("waiting", "Requests that wait for a place at a side.", func(s wire.SideStatus) any { return s.Waiting })
	m.family("unplaced", "gauge", "The share of a route that no ready side can carry, in percent.")
	for _, r := range status.Routes {
		m.value("unplaced", []string{"route", r.Route.Name}, r.Unplaced)
	}
	m.family("instance_ready", "gauge", "Whether an instance gets traffic.")
	for _, r := range status.Routes {
		for _, s := range r.Sides {
			for _, in := range s.Instances {
				ready := 0
				if in.Ready {
					ready = 1
				}
				m.value("instance_ready", []string{"route", r.Route.Name, "side", s.Name, "instance", in.URL}, ready)
			}
		}
	}
}

func (p *Proxy) counters(m *page) {
	type counted struct {
		labels []string
		tally
	}
	var all []counted
	p.changes.Lock()
	for _, f := range p.flows {
		all = append(all, counted{[]string{"route", f.recorder.route, "side", f.recorder.side}, f.recorder.sum()})
	}
	p.changes.Unlock()
	m.family("requests_total", "counter", "Requests that ended, by outcome.")
	for _, c := range all {
		for _, o := range wire.Outcomes() {
			if n := c.outcomes[o]; n > 0 {
				m.value("requests_total", append(c.labels, "outcome", string(o)), n)
			}
		}
	}
	m.family("latency_seconds", "histogram", "Time to the last byte; of streams and long bodies to the header.")
	for _, c := range all {
		n, i := uint64(0), 0
		for _, bound := range bounds() {
			for ; i < len(c.latency); i++ {
				if _, to := wire.BucketBounds(int(c.latency[i][0])); to > bound { //nolint:gosec // a bucket's number
					break
				}
				n += c.latency[i][1]
			}
			m.value("latency_seconds_bucket", append(c.labels, "le", fmt.Sprint(bound.Seconds())), n)
		}
		m.value("latency_seconds_bucket", append(c.labels, "le", "+Inf"), c.latency.Total())
		m.value("latency_seconds_count", c.labels, c.latency.Total())
		m.value("latency_seconds_sum", c.labels, sumOf(c.latency).Seconds())
	}
}

func sumOf(h wire.Histogram) (sum time.Duration) {
	for _, c := range h {
		from, to := wire.BucketBounds(int(c[0]))     //nolint:gosec // a bucket's number
		sum += (from + to) / 2 * time.Duration(c[1]) //nolint:gosec // a count
	}
	return sum
}
