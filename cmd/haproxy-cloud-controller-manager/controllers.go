package main

import (
	"context"
	"fmt"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	ccmconfig "k8s.io/cloud-provider/app/config"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/cloud-provider/names"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"

	"cloud-provider-haproxy/provider"
)

// controllers are the library's controllers that this provider has something to say to: services and nodes. Not there
// are the route controller (routes are the network plugin's) and the node lifecycle controller (it deletes Nodes whose
// machine is gone, which nobody can tell of bare metal).
func controllers() map[string]app.ControllerInitFuncConstructor {
	return map[string]app.ControllerInitFuncConstructor{
		names.CloudNodeController: app.DefaultInitFuncConstructors[names.CloudNodeController],
		names.ServiceLBController: {
			InitContext: app.DefaultInitFuncConstructors[names.ServiceLBController].InitContext,
			Constructor: serviceController,
		},
	}
}

// serviceController is the library's startServiceController with the provider's views of the informers.
func serviceController(initContext app.ControllerInitContext, c *ccmconfig.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
	return func(ctx context.Context, controllerContext genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
		haproxy, ok := cloud.(*provider.Cloud)
		if !ok {
			return nil, false, fmt.Errorf("starting the service controller: the provider is a %T", cloud)
		}
		s, err := servicecontroller.New(
			cloud,
			c.ClientBuilder.ClientOrDie(initContext.ClientName),
			haproxy.ServiceInformer(),
			haproxy.NodeInformer(),
			c.ComponentConfig.KubeCloudShared.ClusterName,
			utilfeature.DefaultFeatureGate,
		)
		if err != nil {
			return nil, false, fmt.Errorf("starting the service controller: %w", err)
		}
		go s.Run(ctx, int(c.ComponentConfig.ServiceController.ConcurrentServiceSyncs), controllerContext.ControllerManagerMetrics)
		return nil, true, nil
	}
}
