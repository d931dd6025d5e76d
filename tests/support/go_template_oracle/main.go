// Command oracle answers, with Ollama's own packages, what Ollama would do with a TEMPLATE, a
// Modelfile or a chat template. One JSON object a line on stdin, one a line on stdout.
//
//	oracle render  {"template", "messages"}  -> {"text"}
//	oracle parse   {"text"}                  -> {"commands": [{"name", "args"}], "request"}
//	oracle named   {"text"}                  -> {"text"}: the template it would be taken for, or ""
//
// Any failure is {"error"}.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/template"
)

type request struct {
	Template string        `json:"template"`
	Messages []api.Message `json:"messages"`
	Text     string        `json:"text"`
}

type command struct {
	Name string `json:"name"`
	Args string `json:"args"`
}

type answer struct {
	Text     string             `json:"text"`
	Commands []command          `json:"commands,omitempty"`
	Request  *api.CreateRequest `json:"request,omitempty"`
	Error    string             `json:"error,omitempty"`
}

func render(in request) (answer, error) {
	t, err := template.Parse(in.Template)
	if err != nil {
		return answer{}, err
	}
	var b strings.Builder
	err = t.Execute(&b, template.Values{Messages: in.Messages})
	return answer{Text: b.String()}, err
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

func main() {
	modes := map[string]func(request) (answer, error){"render": render, "parse": parse, "named": named}
	mode, ok := modes[strings.Join(os.Args[1:], " ")]
	if !ok {
		os.Stderr.WriteString("usage: oracle render|parse|named\n")
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
		a, err := mode(r)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := out.Encode(a); err != nil {
			panic(err)
		}
	}
}
