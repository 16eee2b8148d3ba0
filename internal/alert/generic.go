package alert

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
)

// Format names the version of our own format.
const Format = "backstay.alert/v1"

// message is the body of our own format.
type message struct {
	Format     string            `json:"format"`
	Deployment string            `json:"deployment"`
	Release    string            `json:"release"`
	Status     string            `json:"status"`
	Name       string            `json:"name"`
	Source     string            `json:"source"`
	Summary    string            `json:"summary"`
	Since      time.Time         `json:"since"`
	Link       string            `json:"link"`
	Labels     map[string]string `json:"labels"`
}

// readMessage reads a request in our own format. A key that it does not know is an
// error: it could have been a condition.
func readMessage(body []byte) ([]Report, error) {
	var known map[string]json.RawMessage
	if err := strict(body, &known); err != nil {
		return nil, err
	}
	for _, name := range []string{"format", "deployment", "release", "status", "name", "source", "summary", "since", "link", "labels"} {
		delete(known, name)
	}
	for name := range known {
		return nil, fmt.Errorf("the key %q is not known", tidy(name, maxName))
	}
	var m message
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("it is no alert: %w", err)
	}
	switch {
	case m.Format != Format:
		return nil, fmt.Errorf("its format is %q, and this receiver reads %s", tidy(m.Format, maxName), Format)
	case m.Status != "firing" && m.Status != "resolved":
		return nil, fmt.Errorf("its status is %q, not firing or resolved", tidy(m.Status, maxName))
	case (m.Deployment == "") == (m.Release == ""):
		return nil, errors.New("it has to say exactly one of: deployment, release")
	case m.Release != "" && m.Since.IsZero():
		return nil, errors.New("with a release it has to say since when: a deployment that began later has nothing to do with it")
	case m.Name == "" && m.Summary == "":
		return nil, errors.New("it has neither a name nor a summary: say what is wrong")
	}
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	return reports(tidy(cmp.Or(m.Source, "webhook"), maxName), []found{{
		deployment: tidy(m.Deployment, maxName), release: tidy(m.Release, maxName), firing: m.Status == "firing", identity: digest,
		alert: backstay.Alert{
			Name: tidy(m.Name, maxName), Since: m.Since.UTC(), Labels: labels(m.Labels), Summary: tidy(m.Summary, maxSummary),
			Link: link(m.Link), Digest: digest,
		},
	}}), nil
}
