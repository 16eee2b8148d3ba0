package sqltext

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		d    Dialect
		text string
		want []string
	}{
		{"plain", SQLite(), "A;\n B  ;;\n-- c;\nC", []string{"1:A", "2:B", "4:C"}},
		{"quotes", SQLite(), `a ';' "x;y" [;] 'p;''q' ; b`, []string{`1:a ';' "x;y" [;] 'p;''q'`, "1:b"}},
		{"comments", SQLite(), "/* ; */ a /* ; */ b; -- ;\nc", []string{"1:a /* ; */ b", "2:c"}},
		{"trigger", SQLite(), "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET x = CASE WHEN 1 THEN 2 END; SELECT 1; END; c", []string{"1:CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET x = CASE WHEN 1 THEN 2 END; SELECT 1; END", "1:c"}},
		{"a table named trigger's words", SQLite(), "CREATE TABLE a (event int); b", []string{"1:CREATE TABLE a (event int)", "1:b"}},
		{"backslash", MySQL(), `a 'it\'s;' ; b "x\";" ; c`, []string{`1:a 'it\'s;'`, `1:b "x\";"`, "1:c"}},
		{"mysql comments", MySQL(), "a # ;\n; b --x; c; -- ;\nd", []string{"1:a", "2:b --x", "2:c", "3:d"}},
		{"delimiter", MySQL(), "a;\nDELIMITER //\nb; c //\nd//\nDELIMITER ;\ne;f", []string{"1:a", "3:b; c", "4:d", "6:e", "6:f"}},
		{
			"procedure", MySQL(), "CREATE PROCEDURE p() BEGIN IF a THEN b; ELSE IF c THEN d; END IF; END IF; WHILE x DO y; END WHILE; CASE z WHEN 1 THEN q; END CASE; END; c",
			[]string{"1:CREATE PROCEDURE p() BEGIN IF a THEN b; ELSE IF c THEN d; END IF; END IF; WHILE x DO y; END WHILE; CASE z WHEN 1 THEN q; END CASE; END", "1:c"},
		},
		{"one statement trigger", MySQL(), "CREATE DEFINER=`x`@`y` TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET NEW.b = 1; c", []string{"1:CREATE DEFINER=`x`@`y` TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET NEW.b = 1", "1:c"}},
		{"executable comment", MySQL(), "/*!40101 SET x=1 */; a", []string{"1:/*!40101 SET x=1 */", "1:a"}},
		{"nothing", MySQL(), " -- x\n;\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pieces, problems := Split(tt.d, tt.text)
			if len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
			var got []string
			for _, p := range pieces {
				got = append(got, string(rune('0'+p.Line))+":"+p.Text)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
		})
	}
}

func TestSplitRefuses(t *testing.T) {
	t.Parallel()
	for text, line := range map[string]int{"a;\n'b": 2, "a /* b": 1, "\n\n`x": 3} {
		if _, problems := Split(MySQL(), text); len(problems) != 1 || problems[0].Line != line {
			t.Errorf("%q: got %v, want one problem in line %d", text, problems, line)
		}
	}
}

func TestUnwrap(t *testing.T) {
	t.Parallel()
	is := func(word string) func(string) bool { return func(s string) bool { return s == word } }
	for in, want := range map[string]string{"B a b C": "a b", "a C": "a C", "B": "B", "B C": ""} {
		got := strings.Join(Unwrap(strings.Fields(in), is("B"), is("C")), " ")
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// Whatever the text, splitting ends, loses no character but blanks, comments
// and delimiters, and gives pieces in order with their lines.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"a; b", "CREATE TRIGGER t BEGIN a; END; b", "DELIMITER //\na;b//", "'a;''b' \"c\\\";\" ; -- d", "/* a */ b /*! c; */"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, my bool) {
		d := SQLite()
		if my {
			d = MySQL()
		}
		pieces, _ := Split(d, text)
		at := 0
		for _, p := range pieces {
			i := strings.Index(text[at:], p.Text)
			if i < 0 || p.Text == "" {
				t.Fatalf("piece %q is not in the text after offset %d", p.Text, at)
			}
			if p.Line < 1 || p.Line > 1+strings.Count(text, "\n") {
				t.Fatalf("piece %q is said to be in line %d", p.Text, p.Line)
			}
			at += i + len(p.Text)
			if len(Tokens(d, p.Text)) == 0 {
				t.Fatalf("piece %q is no statement", p.Text)
			}
		}
	})
}
