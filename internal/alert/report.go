package alert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/backstay-dev/backstay"
)

// The labels by which an alert says what it is about.
const (
	DeploymentLabel = "backstay_deployment" // the name (shop#4) or the whole ID
	ReleaseLabel    = "backstay_release"    // the release: the one deployment of it that is under way
)

// Bounds of what is kept.
const (
	maxAlerts  = 8 // of one report
	maxLabels  = 32
	maxName    = 128 // runes
	maxValue   = 256
	maxSummary = 1024
	maxLink    = 512
)

// Report is what one request says about one deployment.
type Report struct {
	// ID is the same for the same report, however often it is sent.
	ID string
	// Deployment is a name or an ID; Release is given instead, and Since with it: a
	// deployment that began later has nothing to do with it.
	Deployment string
	Release    string
	Since      time.Time // the first of its alerts began; zero: it does not say
	Firing     bool      // false: resolved
	Reason     string    // in one line
	Alarm      backstay.Alarm
	// Again is set for a report that no deployment took before.
	Again bool
}

// status is the word that both formats use.
func (r Report) status() string {
	if r.Firing {
		return "firing"
	}
	return "resolved"
}

// found is one alert as a format tells it.
type found struct {
	deployment, release string
	firing              bool
	identity            string // the same for the same alert
	alert               backstay.Alert
}

// reports puts alerts together by what they are about and whether they fire. What is
// about nothing is one report without a target.
func reports(source string, all []found) []Report {
	type about struct {
		deployment, release string
		firing              bool
	}
	var order []about
	groups := map[about][]found{}
	for _, f := range all {
		a := about{f.deployment, f.release, f.firing}
		if groups[a] == nil {
			order = append(order, a)
		}
		groups[a] = append(groups[a], f)
	}
	var out []Report
	for _, a := range order {
		r := Report{Deployment: a.deployment, Release: a.release, Firing: a.firing, Alarm: backstay.Alarm{Source: source}}
		group := groups[a]
		slices.SortStableFunc(group, func(x, y found) int { return x.alert.Since.Compare(y.alert.Since) })
		var identities []string
		for i, f := range group {
			identities = append(identities, f.identity)
			if i < maxAlerts {
				r.Alarm.Alerts = append(r.Alarm.Alerts, f.alert)
			}
		}
		slices.Sort(identities)
		r.Since, r.Alarm.More = group[0].alert.Since, max(len(group)-maxAlerts, 0)
		r.ID = identify(append([]string{source, a.deployment, a.release, r.status()}, identities...)...)
		r.Reason = reason(r, len(group))
		out = append(out, r)
	}
	return out
}

// identify is a short name of texts, the same for the same ones.
func identify(texts ...string) string {
	h := sha256.New()
	for _, t := range texts {
		fmt.Fprintf(h, "%d:%s", len(t), t)
	}
	const enough = 16
	return "alert-" + hex.EncodeToString(h.Sum(nil)[:enough])
}

// reason tells of the first alert, and how many there are.
func reason(r Report, n int) string {
	first := r.Alarm.Alerts[0]
	verb := "is resolved"
	if r.Firing {
		verb = "fires"
	}
	text := fmt.Sprintf("%s: %s %s", r.Alarm.Source, cmp.Or(first.Name, "an alert"), verb)
	if r.Firing && !first.Since.IsZero() {
		text += " since " + first.Since.UTC().Format(time.RFC3339)
	}
	if n > 1 {
		text += fmt.Sprintf(", and %d more", n-1)
	}
	if first.Summary != "" {
		text += ": " + first.Summary
	}
	return text
}

// labels keeps so many of them, the first by name.
func labels(all map[string]string) map[string]string {
	kept := map[string]string{}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names[:min(len(names), maxLabels)] {
		kept[tidy(name, maxName)] = tidy(all[name], maxValue)
	}
	return kept
}

// link is where to look, without what could be a secret in it: of the query only
// what Prometheus' own links have is kept.
func link(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return ""
	}
	kept := url.Values{}
	for _, name := range []string{"g0.expr", "g0.tab"} {
		if v := u.Query().Get(name); v != "" {
			kept.Set(name, v)
		}
	}
	u.User, u.Fragment, u.RawFragment, u.RawQuery = nil, "", "", kept.Encode()
	if text := u.String(); len(text) <= maxLink {
		return text
	}
	u.RawQuery = ""
	return tidy(u.String(), maxLink)
}

// tidy makes a text one line of at most n runes without what could forge another
// line, drive a terminal or turn the order of letters around.
func tidy(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	runes := []rune(strings.Join(strings.Fields(s), " "))
	if len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return string(runes)
}
