// Command oracle answers, with Ollama's own packages, what Ollama would do with a TEMPLATE, a
// Modelfile or a chat template. One JSON object a line on stdin, one a line on stdout.
//
//	oracle render  {"template", "messages", "tools", "think"}  -> {"text"}; the last two are optional
//	oracle inspect {"template"}  -> {"inspection": {"vars", "thinking", "tool_tag", …}}
//	oracle parse   {"text"}      -> {"commands": [{"name", "args"}], "request"}
//	oracle named   {"text"}      -> {"text"}: the template it would be taken for, or ""
//
// Messages and tools are as in /api/chat; "think" is null or a boolean.
//
// Any failure is {"error"}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/tools"
)

type request struct {
	Template string        `json:"template"`
	Messages []api.Message `json:"messages"`
	Tools    api.Tools     `json:"tools"`
	Think    *bool         `json:"think"`
	Text     string        `json:"text"`
}

type command struct {
	Name string `json:"name"`
	Args string `json:"args"`
}

type inspection struct {
	Vars          []string `json:"vars"`
	Thinking      []string `json:"thinking"` // opening and closing tag
	ToolTag       string   `json:"tool_tag"`
	ToolRoundTrip bool     `json:"tool_round_trip"`
	Capabilities  []string `json:"capabilities"`
}

type answer struct {
	Text       string             `json:"text"`
	Commands   []command          `json:"commands,omitempty"`
	Request    *api.CreateRequest `json:"request,omitempty"`
	Inspection *inspection        `json:"inspection,omitempty"`
	Error      string             `json:"error,omitempty"`
}

func render(in request) (answer, error) {
	t, err := template.Parse(in.Template)
	if err != nil {
		return answer{}, err
	}
	var b strings.Builder
	// server/prompt.go, renderPrompt
	v := template.Values{Messages: in.Messages, Tools: in.Tools}
	if in.Think != nil {
		think := api.ThinkValue{Value: *in.Think}
		v.Think, v.ThinkLevel, v.IsThinkSet = think.Bool(), think.String(), true
	}
	err = t.Execute(&b, v)
	return answer{Text: b.String()}, err
}

// inspect says what Ollama concludes from a TEMPLATE. The last two parts are copies of
// goTemplateCapabilities and goTemplateHasToolRoundTrip in server/images.go, which are not exported.
func inspect(in request) (answer, error) {
	t, err := template.Parse(in.Template)
	if err != nil {
		return answer{}, err
	}
	vars, err := t.Vars()
	if err != nil {
		return answer{}, err
	}
	opening, closing := thinking.InferTags(t.Template)
	found := inspection{
		Vars:         vars,
		Thinking:     []string{opening, closing},
		ToolTag:      tools.NewParser(t.Template, nil).Tag(),
		Capabilities: []string{},
	}
	if slices.Contains(vars, "tools") {
		found.Capabilities = append(found.Capabilities, "tools")
	}
	if slices.Contains(vars, "suffix") {
		found.Capabilities = append(found.Capabilities, "insert")
	}
	if opening != "" && closing != "" {
		found.Capabilities = append(found.Capabilities, "thinking")
	}
	raw := t.String()
	found.ToolRoundTrip = slices.Contains(vars, "tools") && slices.Contains(vars, "toolcalls") &&
		(strings.Contains(raw, `eq .Role "tool"`) || strings.Contains(raw, "tool_response") ||
			strings.Contains(raw, "TOOL_RESULTS"))
	return answer{Inspection: &found}, nil
}

func parse(in request) (answer, error) {
	f, err := parser.ParseFile(strings.NewReader(in.Text))
	if err != nil {
		return answer{}, err
	}
	var out answer
	for _, c := range f.Commands {
		out.Commands = append(out.Commands, command{c.Name, c.Args})
	}
	// An unknown parameter fails here and not in ParseFile: the commands are an answer all the same.
	if req, err := f.CreateRequest(""); err == nil {
		out.Request = req
	}
	return out, nil
}

func named(in request) (answer, error) {
	t, err := template.Named(in.Text)
	if err != nil {
		return answer{}, nil // nothing is near enough
	}
	return answer{Text: t.Name}, nil
}

// guarded turns a panic, which Ollama's legacy path has for some templates, into an error.
func guarded(mode func(request) (answer, error), in request) (a answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return mode(in)
}

func main() {
	modes := map[string]func(request) (answer, error){
		"render": render, "inspect": inspect, "parse": parse, "named": named,
	}
	mode, ok := modes[strings.Join(os.Args[1:], " ")]
	if !ok {
		os.Stderr.WriteString("usage: oracle render|inspect|parse|named\n")
		os.Exit(2)
	}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr // the parser prints its warnings there
	for in.More() {
		var r request
		if err := in.Decode(&r); err != nil {
			panic(err)
		}
		a, err := guarded(mode, r)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := out.Encode(a); err != nil {
			panic(err)
		}
	}
}
