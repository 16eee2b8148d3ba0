package haproxy

import (
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

const heading = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n"

func TestParseState(t *testing.T) {
	t.Parallel()
	const (
		up    = "3 shop 1 b1 127.0.0.1 2 0 90 1 5 15 3 1 6 0 0 0 - 9001 - 0 0 - - 0\n"
		maint = "3 shop 2 b2 127.0.0.1 0 5 0 0 5 1 0 0 14 0 0 0 - 1 - 0 0 - - 0\n"
		drain = "3 shop 3 g1 ::1 2 8 10 1 5 15 3 1 2 0 0 0 - 9002 - 0 0 - - 0\n"
	)
	tests := []struct {
		name, text string
		want       table
		err        string
	}{
		{"servers", heading + up + maint + drain, table{
			"b1": {Name: "b1", Address: "127.0.0.1:9001", State: stateReady, Weight: 90, running: true},
			"b2": {Name: "b2", Address: "127.0.0.1:1", State: stateMaint},
			"g1": {Name: "g1", Address: "[::1]:9002", State: stateDrain, Weight: 10, running: true, unchecked: true},
		}, ""},
		{"no servers", heading, table{}, ""},
		{"no backend", "Can't find backend.\n", nil, "no such backend"},
		{"another version", "2\n# srv_name\n", nil, "not a state"},
		{"nothing", "", nil, "not a state"},
		{"permission", "Permission denied\n", nil, "not a state"},
		{"twice", heading + up + up, nil, "there twice"},
		{"another backend", heading + strings.Replace(up, "shop", "other", 1), nil, "of backend"},
		{"weight", heading + strings.Replace(up, " 90 ", " 900 ", 1), nil, "srv_uweight"},
		{"negative", heading + strings.Replace(up, " 90 ", " -1 ", 1), nil, "srv_uweight"},
		{"escape", heading + strings.Replace(up, "b1", "\x1b[2J", 1), nil, "names no server"},
		{"cut short", heading + up[:20], nil, "srv_"},
		{"other columns", "1\n# be_name srv_name\nshop b1\n", nil, "srv_uweight"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseState(tt.text, "shop")
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(server{})); tt.err == "" && (diff != "" || err != nil) {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %v, want an error with %q", err, tt.err)
			}
			if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("control characters in %q", err)
			}
		})
	}
}

func FuzzParseState(f *testing.F) {
	f.Add(heading + "3 shop 1 b1 127.0.0.1 2 0 90 1 5 15 3 1 6 0 0 0 - 9001 - 0 0 - - 0\n")
	f.Add("1\n# \n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseState(text, "shop")
		if err != nil {
			return
		}
		for name, s := range got {
			if name != s.Name || !isName(name) || s.Weight < 0 || s.Weight > 256 {
				t.Errorf("%q: %+v", name, s)
			}
		}
	})
}

func FuzzParseSessions(f *testing.F) {
	f.Add("# pxname,svname,scur,\nshop,b1,3,\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseSessions(text, "shop")
		if err == nil && got == nil {
			t.Error("neither sessions nor an error")
		}
	})
}
