"""The push channel: notifications to people's devices, over FCM's HTTP v1 API."""
