package alert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// alertmanager is the body of Alertmanager's webhook, as far as it is used. What it
// does not know it passes over: later versions of the same format may say more.
type alertmanager struct {
	Version string            `json:"version"`
	Alerts  []json.RawMessage `json:"alerts"`
}

// alertmanagerAlert is one of its alerts.
type alertmanagerAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

const (
	alertmanagerVersion = "4"
	// maxGroup bounds the alerts of one request.
	maxGroup = 1000
)

// readAlertmanager reads a request of Alertmanager.
func readAlertmanager(body []byte) ([]Report, error) {
	var in alertmanager
	if err := strict(body, &in); err != nil {
		return nil, err
	}
	switch {
	case in.Version != alertmanagerVersion:
		return nil, fmt.Errorf("its version is %q, and this receiver reads %s", tidy(in.Version, maxName), alertmanagerVersion)
	case len(in.Alerts) == 0:
		return nil, errors.New("it holds no alerts")
	case len(in.Alerts) > maxGroup:
		return nil, fmt.Errorf("it holds %d alerts, at most %d are read: set max_alerts of the receiver", len(in.Alerts), maxGroup)
	}
	all := make([]found, 0, len(in.Alerts))
	for i, raw := range in.Alerts {
		var a alertmanagerAlert
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, fmt.Errorf("alert %d is none: %w", i, err)
		}
		if a.Status != "firing" && a.Status != "resolved" {
			return nil, fmt.Errorf("the status of alert %d is %q, not firing or resolved", i, tidy(a.Status, maxName))
		}
		sum := sha256.Sum256(raw)
		digest := hex.EncodeToString(sum[:])
		f := found{
			deployment: tidy(a.Labels[DeploymentLabel], maxName), release: tidy(a.Labels[ReleaseLabel], maxName), firing: a.Status == "firing",
			identity: cmp.Or(a.Fingerprint, digest) + " " + a.StartsAt.UTC().Format(time.RFC3339Nano),
			alert: backstay.Alert{
				Name: tidy(a.Labels["alertname"], maxName), Since: a.StartsAt.UTC(), Labels: labels(a.Labels), Link: link(a.GeneratorURL), Digest: digest,
				Summary: tidy(cmp.Or(a.Annotations["summary"], a.Annotations["description"], a.Annotations["message"]), maxSummary),
			},
		}
		if f.deployment != "" {
			f.release = "" // the narrower one counts
		}
		all = append(all, f)
	}
	return reports("alertmanager", all), nil
}
