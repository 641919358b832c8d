package lab

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// LogsVariable names the environment variable with the directory in which New keeps logs; each test gets a directory in it.
const LogsVariable = "LAB_LOGS"

// startLimit bounds the start of a lab, the building of its programs with a cold cache included.
const startLimit = 5 * time.Minute

// Require skips a test where no lab can be, with the reason. Where CI=true it fails instead: there a skip would hide that
// nothing was tested. RequireRoot and RequirePrograms do the same for a test that needs no lab.
func Require(tb testing.TB) {
	tb.Helper()
	require(tb, Missing())
}

// RequireRoot is for a test that only root can run; why says what for.
func RequireRoot(tb testing.TB, why string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		require(tb, fmt.Errorf("this test needs root: %s", why))
	}
}

// RequirePrograms is for a test that runs Debian's programs, named by name or path.
func RequirePrograms(tb testing.TB, programs ...string) {
	tb.Helper()
	require(tb, missing("this test", programs))
}

func require(tb testing.TB, missing error) {
	tb.Helper()
	switch {
	case missing == nil:
	case os.Getenv("CI") == "true":
		tb.Fatal(missing)
	default:
		tb.Skip(missing)
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
