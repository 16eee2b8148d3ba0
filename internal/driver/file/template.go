package file

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

const (
	maxTemplate = 256 << 10 // bytes of a template
	maxOutput   = 4 << 20   // bytes that one may yield
)

// functions are what a template may call: none does I/O, and none makes text
// out of text, so that the output is bounded by the template and its values.
func functions() []string {
	return []string{"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len"}
}

// parseTemplate reads a template of the small language that file steps allow:
// values, conditions and comparisons. Loops, nested templates and functions
// that build text are refused, so that rendering always ends soon.
func parseTemplate(text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("template has %d bytes, at most %d are taken", len(text), maxTemplate)
	}
	t, err := template.New("template").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	if len(t.Templates()) > 1 {
		return nil, fmt.Errorf("parse template: {{define}} and {{block}} are not available here")
	}
	if t.Tree != nil {
		if err := checkNode(t.Root); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// checkNode walks the whole syntax tree and refuses what is not known to be harmless.
func checkNode(n parse.Node) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		return checkAll(n.Nodes)
	case *parse.ActionNode:
		return checkNode(n.Pipe)
	case *parse.IfNode:
		return checkBranch(&n.BranchNode)
	case *parse.WithNode:
		return checkBranch(&n.BranchNode)
	case *parse.PipeNode:
		if n == nil {
			return nil
		}
		for _, cmd := range n.Cmds {
			if err := checkAll(cmd.Args); err != nil {
				return err
			}
		}
		return nil
	case *parse.ChainNode:
		return checkNode(n.Node)
	case *parse.IdentifierNode:
		if !slices.Contains(functions(), n.Ident) {
			return fmt.Errorf("parse template: function %q is not available here (there are %s)", n.Ident, strings.Join(functions(), ", "))
		}
		return nil
	case *parse.TextNode, *parse.CommentNode, *parse.DotNode, *parse.NilNode, *parse.FieldNode,
		*parse.VariableNode, *parse.BoolNode, *parse.NumberNode, *parse.StringNode:
		return nil
	}
	return fmt.Errorf("parse template: %.40q is not available here (no loops, no nested templates)", n.String())
}

func checkBranch(n *parse.BranchNode) error {
	if err := checkNode(n.Pipe); err != nil {
		return err
	}
	if err := checkNode(n.List); err != nil {
		return err
	}
	return checkNode(n.ElseList)
}

func checkAll(nodes []parse.Node) error {
	for _, n := range nodes {
		if err := checkNode(n); err != nil {
			return err
		}
	}
	return nil
}

// render executes a template; a name without a value is an error.
func render(text string, values map[string]string) ([]byte, error) {
	t, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	if values == nil {
		values = map[string]string{}
	}
	var out limited
	if err := t.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("render template: %w", err)
	}
	return out.Bytes(), nil
}

// limited is a buffer that refuses more than maxOutput.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxOutput {
		return 0, fmt.Errorf("output exceeds %d bytes", maxOutput)
	}
	return l.Buffer.Write(b)
}
