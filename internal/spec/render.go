package spec

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Render prints the merged specification as YAML that Parse reads back to the
// same steps. Inputs stand as comments above it with where they came from.
// Secrets are the references that the file holds.
func Render(spec *Spec) []byte {
	var b bytes.Buffer
	if spec.Environment != "" {
		fmt.Fprintf(&b, "# environment: %s\n", spec.Environment)
	}
	for _, in := range spec.Inputs {
		fmt.Fprintf(&b, "# %s=%s (from %s)\n", in.Name, display(fmt.Sprintf("%q", in.Value), 200), in.Source)
	}
	b.Write(spec.Merged)
	return b.Bytes()
}

func mergedYAML(root *node) ([]byte, error) {
	var b bytes.Buffer
	dumper, err := yaml.NewDumper(&b, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("render spec: %w", err)
	}
	if err := dumper.Dump(toYAML(root)); err != nil {
		return nil, fmt.Errorf("render spec: %w", err)
	}
	if err := dumper.Close(); err != nil {
		return nil, fmt.Errorf("render spec: %w", err)
	}
	return b.Bytes(), nil
}

func toYAML(n *node) *yaml.Node {
	switch n.shape {
	case mapping:
		y := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, p := range n.pairs {
			y.Content = append(y.Content, textNode(p.key.text), toYAML(p.value))
		}
		return y
	case sequence:
		y := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range n.items {
			y.Content = append(y.Content, toYAML(item))
		}
		return y
	case scalar, void:
	}
	if n.plain && !n.filled && n.tag != "!!str" {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: n.tag, Value: n.text}
	}
	text := strings.ReplaceAll(n.text, "${", "$${")
	if n.filled && (text == "true" || text == "false" || isNumber(text)) {
		// It may stand where a number is wanted; where a text is, it keeps its text.
		return &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	}
	return textNode(text)
}

func textNode(text string) *yaml.Node {
	y := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if strings.Contains(strings.TrimSuffix(text, "\n"), "\n") && !strings.HasPrefix(text, " ") && !strings.Contains(text, "\r") {
		y.Style = yaml.LiteralStyle
	}
	return y
}
