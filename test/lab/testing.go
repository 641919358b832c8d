package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// LogsVariable names the environment variable with the directory in which New keeps logs; each test gets a directory in it.
const LogsVariable = "LAB_LOGS"

// startLimit bounds the start of a lab, the building of its programs with a cold cache included.
const startLimit = 5 * time.Minute

// Require skips a test where no lab can be, with the reason. Where CI=true it fails instead: there a skip would hide that
// nothing was tested.
func Require(tb testing.TB) {
	tb.Helper()
	err := Missing()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true" || !errors.Is(err, ErrNotRoot):
		tb.Fatal(err)
	default:
		tb.Skip(err)
	}
}

// New makes a lab for one test. It is gone when the test ends; the tail of every log is printed if the test failed.
func New(tb testing.TB, options Options) *Lab {
	tb.Helper()
	Require(tb)
	if kept := os.Getenv(LogsVariable); kept != "" && options.Logs == "" {
		options.Logs = kept + "/" + tb.Name()
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startLimit)
	defer cancel()
	l, err := Start(ctx, options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			if err := l.WriteLogs(tb.Output(), 30); err != nil {
				tb.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}
