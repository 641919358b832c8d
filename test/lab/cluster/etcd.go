package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// etcdBackup is where SaveEtcd puts etcd's files.
const etcdBackup = etcdDir + ".saved"

func (c *Cluster) startEtcd() (err error) {
	c.etcd, err = c.startDaemon([]string{
		"etcd", "--data-dir=" + etcdDir, "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
	})
	return err
}

// stopEtcd ends etcd in good order, so that its files are whole.
func (c *Cluster) stopEtcd() error {
	if err := c.etcd.Stop(); err != nil {
		return fmt.Errorf("stop etcd: %w", err)
	}
	return nil
}

// SaveEtcd keeps what the API server knows now, for RestoreEtcd. etcd is away for a moment.
func (c *Cluster) SaveEtcd(ctx context.Context) error {
	if err := c.stopEtcd(); err != nil {
		return err
	}
	if _, err := c.Lab.Controller.Run(ctx, "cp", "--archive", etcdDir, etcdBackup); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	return c.awaitAPIServer(ctx)
}

// RestoreEtcd makes the API server know what SaveEtcd kept, and nothing newer. As `etcdutl snapshot restore --bump-revision` does,
// it goes on with revisions above those that clients have seen; without, they would not notice what is written next.
func (c *Cluster) RestoreEtcd(ctx context.Context) error {
	before, err := c.revision(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(c.KillAPIServer(), c.stopEtcd()); err != nil {
		return err
	}
	for _, argv := range [][]string{{"rm", "--recursive", etcdDir}, {"mv", etcdBackup, etcdDir}} {
		if _, err := c.Lab.Controller.Run(ctx, argv...); err != nil {
			return err
		}
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	return c.bump(ctx, before)
}

// revision is etcd's, as the API server tells it.
func (c *Cluster) revision(ctx context.Context) (int, error) {
	list, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("ask for etcd's revision: %w", err)
	}
	return strconv.Atoi(list.ResourceVersion)
}

// bump writes until etcd's revision is above one.
func (c *Cluster) bump(ctx context.Context, above int) error {
	objects := c.Client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	object, err := objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bump"}}, metav1.CreateOptions{})
	for n := 0; err == nil; n++ {
		now, wrong := strconv.Atoi(object.ResourceVersion)
		if wrong != nil || now > above {
			return errors.Join(wrong, objects.Delete(ctx, object.Name, metav1.DeleteOptions{}))
		}
		object.Data = map[string]string{"n": strconv.Itoa(n)}
		object, err = objects.Update(ctx, object, metav1.UpdateOptions{})
	}
	return fmt.Errorf("raise etcd's revision: %w", err)
}
