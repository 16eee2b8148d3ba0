package spec

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// scalar decodes text, booleans and numbers.
func (d *decoder) scalar(n *node, v reflect.Value, path string, f *field) {
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.text(n, path, "text"); ok && d.tagged(n, path, f) {
			v.SetString(text)
		}
	case reflect.Bool:
		d.boolean(n, v, path)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if i, ok := d.integer(n, path); ok {
			if v.OverflowInt(i) {
				d.ps.add(n, path, n.text+" is out of range", "")
				return
			}
			v.SetInt(i)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if i, ok := d.integer(n, path); ok {
			if i < 0 || v.OverflowUint(uint64(i)) {
				d.ps.add(n, path, n.text+" is out of range", "")
				return
			}
			v.SetUint(uint64(i))
		}
	case reflect.Float32, reflect.Float64:
		if x, ok := d.number(n, path); ok {
			v.SetFloat(x)
		}
	default:
		d.broken(errors.New("type " + v.Type().String() + " cannot be read from a spec"))
	}
}

// text returns a scalar's text. Plain numbers and booleans keep theirs (1.10
// stays 1.10), except those that other YAML readers take for another number.
func (d *decoder) text(n *node, path, want string) (string, bool) {
	if n.shape != scalar {
		d.mismatch(n, path, want, "")
		return "", false
	}
	if n.plain && !n.filled && ambiguous(n) {
		d.ps.add(n, path, quoteless(n.text)+" is a number that YAML readers understand differently", `quote it: "`+quoteless(n.text)+`"`)
		return "", false
	}
	return n.text, true
}

// ambiguous reports whether a plain scalar is a number whose text does not
// say which: octal, hexadecimal, binary, with underscores, infinite.
func ambiguous(n *node) bool {
	if n.tag != "!!int" && n.tag != "!!float" {
		return false
	}
	digits := strings.TrimLeft(n.text, "+-")
	switch {
	case strings.ContainsAny(digits, "_xXoObB"):
		return true
	case strings.HasPrefix(digits, "."):
		return strings.ContainsAny(digits, "nN")
	}
	return len(digits) > 1 && digits[0] == '0' && digits[1] != '.' && digits[1] != 'e' && digits[1] != 'E'
}

// tagged checks a text against its field's enum, format and ref.
func (d *decoder) tagged(n *node, path string, f *field) bool {
	if f == nil {
		return true
	}
	if len(f.enum) > 0 {
		for _, e := range f.enum {
			if n.text == e {
				return true
			}
		}
		d.ps.add(n, path, quote(n.text)+" is not one of "+list(f.enum), d.ps.suggest(n.text, f.enum))
		return false
	}
	if n.text == "" && f.required {
		return false // reported with the keys that are missing
	}
	if f.format == "name" {
		if message := badName(n.text); message != "" {
			d.ps.add(n, path, message, nameHint)
			return false
		}
	}
	if f.ref != "" {
		d.refs = append(d.refs, reference{f.ref, n, path})
	}
	return true
}

func (d *decoder) boolean(n *node, v reflect.Value, path string) {
	if n.shape == scalar && !(n.isText() && !n.plain) {
		switch n.text {
		case "true", "false":
			v.SetBool(n.text == "true")
			return
		}
	}
	hint := "write true or false"
	if n.shape == scalar {
		switch strings.ToLower(n.text) {
		case "yes", "on", "y", "true":
			hint = "write true"
		case "no", "off", "n", "false":
			hint = "write false"
		}
		if n.text == "true" || n.text == "false" {
			hint += ", without quotes"
		}
	}
	d.mismatch(n, path, "true or false", hint)
}

// integer reads a decimal integer of 64 bits.
func (d *decoder) integer(n *node, path string) (int64, bool) {
	if n.shape != scalar || n.isText() && !n.plain {
		hint := ""
		if n.shape == scalar && decimal(n.text) {
			hint = "remove the quotes"
		}
		d.mismatch(n, path, "an integer", hint)
		return 0, false
	}
	if !decimal(n.text) {
		hint := "write it with the digits 0 to 9"
		if digits := strings.TrimLeft(n.text, "+-"); len(digits) > 1 && digits[0] == '0' && allDigits(digits) {
			hint = "a leading 0 means octal to some readers; remove it"
		}
		d.mismatch(n, path, "an integer", hint)
		return 0, false
	}
	i, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil {
		d.ps.add(n, path, quoteless(n.text)+" is out of range", "")
		return 0, false
	}
	return i, true
}

// number reads a finite decimal number.
func (d *decoder) number(n *node, path string) (float64, bool) {
	if n.shape != scalar || n.isText() && !n.plain || !isNumber(n.text) {
		d.mismatch(n, path, "a number", "")
		return 0, false
	}
	x, err := strconv.ParseFloat(n.text, 64)
	if err != nil || math.IsInf(x, 0) {
		d.ps.add(n, path, quoteless(n.text)+" is out of range", "")
		return 0, false
	}
	return x + 0, true // -0 becomes 0
}

// decimal reports whether s is an integer as JSON writes it.
func decimal(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return allDigits(digits) && (len(digits) == 1 || digits[0] != '0')
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// isNumber reports whether s is a number as JSON writes it.
func isNumber(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// generic turns a node into what encoding/json would decode into an any. With
// asText plain numbers and booleans stay texts.
func (d *decoder) generic(n *node, path string, asText bool) (any, bool) {
	switch n.shape {
	case void:
		return nil, false
	case mapping:
		m, ok := make(map[string]any, len(n.pairs)), true
		for _, p := range n.pairs {
			v, good := d.generic(p.value, join(path, p.key.text), asText)
			m[p.key.text], ok = v, ok && good
		}
		return m, ok
	case sequence:
		l, ok := make([]any, len(n.items)), true
		for i, item := range n.items {
			v, good := d.generic(item, at(path, i), asText)
			l[i], ok = v, ok && good
		}
		return l, ok
	case scalar:
	}
	if n.plain && !n.filled && !asText && isNumber(n.text) {
		return d.plain(n, path) // even where it is beyond what YAML takes for a number
	}
	if asText || n.filled || n.isText() {
		text, ok := d.text(n, path, "text")
		return text, ok
	}
	return d.plain(n, path)
}

// plain turns an unquoted number or boolean into its JSON value.
func (d *decoder) plain(n *node, path string) (any, bool) {
	switch {
	case n.tag == "!!bool":
		if n.text != "true" && n.text != "false" {
			d.mismatch(n, path, "true or false", "write "+strings.ToLower(n.text)+`, or quote it: "`+n.text+`"`)
			return nil, false
		}
		return n.text == "true", true
	case ambiguous(n) || !isNumber(n.text):
		d.ps.add(n, path, quoteless(n.text)+" is a number that YAML readers understand differently", `quote it: "`+quoteless(n.text)+`"`)
		return nil, false
	case n.tag == "!!int" || decimal(n.text):
		i, ok := d.integer(n, path)
		return i, ok
	}
	x, ok := d.number(n, path)
	return x, ok
}
