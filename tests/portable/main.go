// Command portable type-checks packages, and their tests, for other systems, and compiles nothing
// for them:
//
//	go run ./tests/portable linux/arm windows/amd64 -- work
//
// It finds what go vet and go build would find in the packages named (constants too large for an
// int of 32 bits, calls that a system has not), in a tenth of their time, because what they depend
// on is read without its functions' bodies.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "portable:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	split := slices.Index(arguments, "--")
	if split < 1 || split == len(arguments)-1 {
		return errors.New("want targets, --, and packages: for example linux/arm windows/amd64 -- work")
	}
	var errs []error
	for _, target := range arguments[:split] {
		errs = append(errs, check(target, arguments[split+1:]))
	}
	return errors.Join(errs...)
}

// check type-checks packages for one target and prints what is wrong.
func check(target string, patterns []string) error {
	system, arch, found := strings.Cut(target, "/")
	if !found {
		return fmt.Errorf("target %q: want GOOS/GOARCH, for example linux/arm", target)
	}
	dependencies, err := dependencies()
	if err != nil {
		return err
	}
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.LoadAllSyntax, Tests: true,
		Env: append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0"),
		ParseFile: func(files *token.FileSet, name string, text []byte) (*ast.File, error) {
			file, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
			if isDependency(name, dependencies) {
				dropBodies(file)
			}
			return file, err
		},
	}, patterns...)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	wrong := 0
	for _, p := range loaded { // not those that it imports, whose bodies are missing
		for _, e := range p.Errors {
			fmt.Fprintf(os.Stderr, "%s: %s\n", target, e)
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%s: %d errors", target, wrong)
	}
	fmt.Printf("%s: %d packages and tests\n", target, len(loaded))
	return nil
}

// dependencies are the folders of the standard library and of other modules.
func dependencies() ([]string, error) {
	ask := exec.CommandContext(context.Background(), "go", "env", "GOROOT", "GOMODCACHE")
	folders, err := ask.Output()
	return strings.Fields(string(folders)), err
}

func isDependency(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return strings.HasPrefix(name, folder+string(filepath.Separator))
	})
}

func dropBodies(file *ast.File) {
	if file == nil {
		return
	}
	for _, declaration := range file.Decls {
		if function, ok := declaration.(*ast.FuncDecl); ok {
			function.Body = nil
		}
	}
}
