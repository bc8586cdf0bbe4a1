"""The local copy of DingTalk's organisations, in SQL."""
