package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal asks whoever sits at the controlling terminal, whatever stdin and stdout are.
type terminal struct{}

// errNoTerminal is the answer where nobody sits.
var errNoTerminal = errors.New("nobody can be asked without a terminal")

// Confirm implements bootstrap.Terminal.
func (terminal) Confirm(ctx context.Context, question string) (bool, error) {
	answer, err := ask(ctx, question+" (yes/no)? ", func(tty *os.File) (string, error) {
		return bufio.NewReader(tty).ReadString('\n')
	})
	return strings.TrimSpace(answer) == "yes", err
}

// Secret implements bootstrap.Terminal.
func (terminal) Secret(ctx context.Context, prompt string) (string, error) {
	return ask(ctx, prompt, func(tty *os.File) (string, error) {
		typed, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(tty)
		return string(typed), err
	})
}

func ask(ctx context.Context, prompt string, read func(*os.File) (string, error)) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errNoTerminal
	}
	defer tty.Close()
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", errNoTerminal
	}
	fmt.Fprint(tty, prompt)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read(tty)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return a.text, a.err
	case <-ctx.Done():
		// Ctrl-C while the echo is off. The read itself cannot be interrupted; the process is about to end.
		return "", errors.Join(context.Cause(ctx), term.Restore(int(tty.Fd()), before))
	}
}
