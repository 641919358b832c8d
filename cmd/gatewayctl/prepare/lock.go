package prepare

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// LockFile is held by the bootstrap that changes this machine. It stays, and is free when its process has ended.
const LockFile = "/run/gatewayctl-bootstrap.lock"

// HoldLock takes a lock until it is released or this process ends; who says whose it is. The error tells who has it.
func HoldLock(file, who string) (release func() error, err error) {
	held, err := lock(file, syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	if err = held.Truncate(0); err == nil {
		_, err = held.WriteAt([]byte(who+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keeping other bootstraps out: %w", err), held.Close())
	}
	return held.Close, nil
}

// TryLock fails when somebody holds the lock. Those who only ask do not disturb each other.
func TryLock(file string) error {
	held, err := lock(file, syscall.LOCK_SH)
	if err != nil {
		return err
	}
	return held.Close()
}

func lock(file string, how int) (*os.File, error) {
	held, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeping other bootstraps out: %w", err)
	}
	err = syscall.Flock(int(held.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		other, _ := os.ReadFile(file)
		return nil, errors.Join(fmt.Errorf("another bootstrap changes this machine (%s): wait until it has ended, and run the same command again",
			strings.TrimSpace(string(other))), held.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keeping other bootstraps out: %w", err), held.Close())
	}
	return held, nil
}
