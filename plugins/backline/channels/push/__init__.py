"""The push channel: notifications to users' devices, over FCM's HTTP v1 API."""
