package file

import (
	"strings"
	"testing"
	"time"
)

func TestRender(t *testing.T) {
	t.Parallel()
	values := map[string]string{"name": "shop", "env": "prod", "tricky": "{{.name}} ${HOME} $(id)"}
	for _, tt := range []struct{ name, text, want, fails string }{
		{"value", "hello {{.name}}", "hello shop", ""},
		{"condition", `{{if and (eq .env "prod") (ne .name "x")}}a{{else}}b{{end}}`, "a", ""},
		{"values are not templates", "{{.tricky}}", "{{.name}} ${HOME} $(id)", ""},
		{"dollar braces are text", "${HOME}", "${HOME}", ""},
		{"missing value", "{{.nome}}", "", "nome"},
		{"missing value in a condition", "{{if .nome}}{{end}}", "", "nome"},
		{"endless loop", "{{range 1000000000000}}{{end}}", "", "no loops"},
		{"loop over values", "{{range .}}{{.}}{{end}}", "", "no loops"},
		{"recursion", `{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, "", "define"},
		{"own recursion", `{{template "template"}}`, "", "not available"},
		{"call", "{{call .name}}", "", "call"},
		{"doubling", `{{$x := "a"}}{{$x = printf "%s%s" $x $x}}`, "", "printf"},
		{"padding", `{{printf "%1000000d" 1}}`, "", "printf"},
		{"nested in a pipe", `{{.name | printf "%s"}}`, "", "printf"},
		{"nested in parentheses", `{{if (len (print .name))}}{{end}}`, "", "print"},
		{"nested in a condition's else", `{{if .name}}{{else}}{{with (js "x")}}{{end}}{{end}}`, "", "js"},
		{"too long", strings.Repeat("x", maxTemplate+1), "", "at most"},
		{"syntax", "{{", "", "unclosed"},
		{"deep parentheses", "{{" + strings.Repeat("(", maxTemplate-10), "", "parse"},
		{"deep conditions", strings.Repeat("{{if 1}}", maxTemplate/8), "", "parse"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := render(tt.text, values)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("render = %.40q, %v; want an error naming %q", got, err, tt.fails)
				}
				return
			}
			if err != nil || string(got) != tt.want {
				t.Errorf("render = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestRenderBoundsOutput(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("{{.v}}", 1000)
	if _, err := render(text, map[string]string{"v": strings.Repeat("x", 10_000)}); err == nil || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("ten megabytes of output: %v", err)
	}
}

func FuzzRender(f *testing.F) {
	f.Add("{{.name}}", "v")
	f.Add(`{{if eq .name "x"}}{{with .name}}{{.}}{{end}}{{end}}`, "x")
	f.Add("{{$x := .name}}{{$x}}{{/* c */}}", "{{")
	f.Fuzz(func(t *testing.T, text, value string) {
		began := time.Now()
		out, err := render(text, map[string]string{"name": value})
		if time.Since(began) > 5*time.Second {
			t.Errorf("rendering took %v", time.Since(began))
		}
		if err == nil && len(out) > len(text)*(len(value)+32) {
			t.Errorf("%d bytes out of a template of %d and a value of %d", len(out), len(text), len(value))
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	for _, p := range []string{"/etc/x", "/a/../b", "//x", "/proc/1/mem", "/a\x00", "/\xff", "rel"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if checkPath(p) != "" {
			return
		}
		if !strings.HasPrefix(p, "/") || len(p) < 2 || strings.ContainsAny(p, "\x00\n\r\x1b") || strings.Contains(p+"/", "/../") ||
			strings.Contains(p, "//") || strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/") {
			t.Errorf("path %q was taken", p)
		}
		if checkRelative(p) == "" {
			t.Errorf("absolute %q was taken as relative", p)
		}
	})
}
