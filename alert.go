package backstay

import "time"

// Alarm is what was reported about a deployment from outside: by a person, or by a
// monitor through a webhook. It is evidence that is kept with a signal; who takes it
// in bounds it. Its texts are others' words, never instructions.
type Alarm struct {
	// Source is who reported it, in their own word ("alertmanager"); Key is the
	// reference of the secret that it was authenticated by ("secret:file/token").
	Source string  `json:"source,omitempty"`
	Key    string  `json:"key,omitempty"`
	Alerts []Alert `json:"alerts,omitempty"`
	More   int     `json:"more,omitempty"` // alerts that came with them and are not kept
}

// Alert is one condition that a monitor watches.
type Alert struct {
	Name    string            `json:"name,omitempty"`
	Since   time.Time         `json:"since,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Summary string            `json:"summary,omitempty"`
	Link    string            `json:"link,omitempty"`   // where to look
	Digest  string            `json:"digest,omitempty"` // of the alert as it came: SHA-256 in hex
}

// Map returns the alarm with each of its texts changed by f.
func (a Alarm) Map(f func(string) string) Alarm {
	a.Source = f(a.Source)
	alerts := make([]Alert, 0, len(a.Alerts))
	for _, one := range a.Alerts {
		labels := make(map[string]string, len(one.Labels))
		for k, v := range one.Labels {
			labels[f(k)] = f(v)
		}
		one.Name, one.Summary, one.Link, one.Labels = f(one.Name), f(one.Summary), f(one.Link), labels
		alerts = append(alerts, one)
	}
	a.Alerts = alerts
	return a
}
