// Package advice finds the commands that our texts tell people to type: in the string literals of the source and in the pages of docs/. The tests of
// each program hold them against its tree of commands, so that no fix names a command or a flag that isn't there.
package advice

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Command is a command line found in a text.
type Command struct {
	Where string   // file:line
	Text  string   // from the program's name on
	Words []string // behind the program's name; a value that is filled in at run time is Filled
	Open  bool     // something unknown follows: words may be missing
}

// Filled stands for a word that is only known at run time.
const Filled = "filled-in"

// Find lists the commands of a program in every Go file (tests aside) and every Markdown page of fsys, in the order of the files.
func Find(fsys fs.FS, program string) (out []Command, err error) {
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (base[0] == '.' || base == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		var list []Command
		switch {
		case strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go") && !strings.HasSuffix(base, ".pb.go"):
			list, err = inSource(fsys, name, program)
		case strings.HasSuffix(base, ".md"):
			list, err = inPage(fsys, name, program)
		}
		out = append(out, list...)
		return err
	})
	return out, err
}

// inSource reads string literals; what is joined to them by + counts as filled in.
func inSource(fsys fs.FS, name, program string) (out []Command, err error) {
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, name, b, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		text, ok := literal(e)
		if !ok {
			return true
		}
		where := fmt.Sprintf("%s:%d", name, files.Position(e.Pos()).Line)
		for _, t := range strings.Split(text, "\n") {
			out = append(out, In(where, t, program)...)
		}
		return false
	})
	return out, nil
}

// literal is the text of a string literal, or of a sum that has one; other parts of the sum are Filled.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, okLeft := literal(e.X)
		right, okRight := literal(e.Y)
		switch {
		case okLeft && okRight:
			return left + right, true
		case okLeft:
			return left + open, true
		case okRight:
			return open + right, true
		}
	}
	return "", false
}

// open marks the place in a literal where something is joined to it.
const open = "\x00"

var span = regexp.MustCompile("`[^`]+`")

// inPage reads the code spans of a page and the lines of its console blocks.
func inPage(fsys fs.FS, name, program string) (out []Command, err error) {
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	fenced := false
	for i, line := range strings.Split(string(b), "\n") {
		where := fmt.Sprintf("%s:%d", name, i+1)
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced:
			rest := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "$ "), "next: ")
			if strings.HasPrefix(rest, program+" ") && !strings.HasPrefix(rest, program+"  ") { // not a picture
				out = append(out, In(where, rest, program)...)
			}
		default:
			for _, code := range span.FindAllString(line, -1) {
				if code = strings.TrimPrefix(code, "`"); strings.HasPrefix(code, program+" ") {
					out = append(out, In(where, code, program)...)
				}
			}
		}
	}
	return out, nil
}

var (
	verbs   = regexp.MustCompile(`%[-+# 0]*[0-9.]*[a-zA-Z]`)
	named   = regexp.MustCompile(`\{[a-z_]+\}`)
	quoted  = regexp.MustCompile(`'[^']*'`)
	endings = ",;:)"
)

// In lists the commands in one line of text. A command ends with the text, or behind a word that a comma, a semicolon, a colon or a bracket follows,
// or before a shell's redirection. One that a colon or the end of a code span follows is only named: it is open.
func In(where, text, program string) (out []Command) {
	text = quoted.ReplaceAllString(verbs.ReplaceAllString(named.ReplaceAllString(text, Filled), Filled), Filled)
	for {
		before, rest, found := strings.Cut(text, program+" ")
		if !found {
			return out
		}
		text = rest
		if before != "" && !strings.ContainsAny(before[len(before)-1:], " `(\"/") {
			continue // the end of another word
		}
		c := Command{Where: where, Text: program + " " + strings.ReplaceAll(rest, open, "…")}
		for _, w := range strings.Fields(rest) {
			if code, _, ends := strings.Cut(w, "`"); ends { // of a code span: it names a command, and may leave arguments out
				c.Words, c.Open = append(c.Words, code), true
				break
			}
			if strings.ContainsAny(w, "|<>#") || w == "…" || w == "…]" || w == `\` || w == "&&" {
				break
			}
			if i := strings.Index(w, open); i >= 0 {
				c.Open = true
				w = strings.ReplaceAll(w, open, Filled)
			}
			clean := strings.TrimRight(w, endings)
			c.Words = append(c.Words, clean)
			if clean != w {
				c.Open = c.Open || strings.HasSuffix(w, ":")
				break
			}
		}
		out = append(out, c)
	}
}
